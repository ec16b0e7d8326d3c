"""The table of bad inputs, and the program that sends them all and notes what came back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .cases import Row, Seen
from .rows_bodies import BODY_ROWS
from .rows_fields import FIELD_ROWS
from .rows_prompts import PROMPT_ROWS
from .rows_server import SERVER_ROWS
from .served import Served

ROWS: Final = tuple(sorted((*BODY_ROWS, *FIELD_ROWS, *PROMPT_ROWS, *SERVER_ROWS), key=lambda row: row.number))
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of the table: a case of a row or a test of it, what was seen, and the request behind it."""

    row: Row
    input: str
    seen: Seen
    next_served: str
    """``served``, ``failed``, or ``(ended)`` where the case ends the server"""

    @property
    def held(self) -> bool:
        """True if the row's expectation was met and the next request was served."""
        return self.seen.held and self.next_served != "failed"


async def shown_over_http(rows: Iterable[Row]) -> AsyncIterator[Shown]:
    """Sends every case of the rows, each with the good request behind it; rows with equal options share a
    server."""
    by_server: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.cases:
            by_server.setdefault(row.server, []).append(row)
    for options, together in by_server.items():
        async with Served(*options) as served:
            await served.good()
            for row in together:
                for case in row.cases:
                    seen = await case.send(served)
                    if not served.running:
                        after = "(ended)" if row.number == 41 else "failed"
                    else:
                        after = "served" if await served.good() else "failed"
                    yield Shown(row, case.shown, seen, after)


def shown_by_tests(rows: Iterable[Row]) -> list[Shown]:
    """Runs the tests of the rows."""
    return [Shown(row, f"`{test}`", run_test(test), "-") for row in rows for test in row.tests]


def run_test(test: str) -> Seen:
    """Runs a test of the repository, or a file of them, and tells whether it passed or was left out."""
    room = test.split("/")[1]
    marker = ["-m", room] if room in ("page", "real") else []
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *marker, test]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else "no output"
    passed = run.returncode == 0 and "passed" in last
    return Seen("test", "passed" if passed else last, passed)
