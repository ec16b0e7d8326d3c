"""The results of rows and trials on the disk, so that a few can be run again without the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from .cases import Row, Seen
from .rows import ROOT, Shown
from .trial import Result, Trial

STORE: Final = ROOT / "build" / "robustness.json"


class Results:
    """The newest result of every line of the table and of every trial."""

    def __init__(self, path: Path = STORE) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        if self._path.exists():
            self._known = json.loads(self._path.read_text())

    def keep_line(self, line: Shown) -> None:
        """Keeps a line of the table."""
        self._keep(_line_key(line.row, line.input), {"seen": asdict(line.seen), "next": line.next_served})

    def keep_trial(self, trial: Trial, result: Result) -> None:
        """Keeps the result of a trial."""
        self._keep(f"trial {trial.name}", asdict(result))

    def _keep(self, key: str, value: Any) -> None:
        self._read()  # another run may have kept results since
        self._known[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._known, indent=1, ensure_ascii=False))

    def lines(self, rows: Sequence[Row]) -> list[Shown]:
        """Returns the lines of the rows, in order. Raises KeyError for a line without a result."""
        found = []
        for row in rows:
            for shown in row.inputs:
                kept = self._known[_line_key(row, shown)]
                found.append(Shown(row, shown, Seen(**kept["seen"]), kept["next"]))
        return found

    def trials(self, trials: Sequence[Trial]) -> list[tuple[Trial, Result]]:
        """Returns the trials with their results; a trial without one says so."""
        missing = {"figures": "**not run yet**", "held": None}
        return [(trial, Result(**self._known.get(f"trial {trial.name}", missing))) for trial in trials]


def _line_key(row: Row, shown: str) -> str:
    return f"{row.number} {shown}"
