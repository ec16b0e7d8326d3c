"""Sends every bad input, brings every fault about, and writes docs/robustness.md.

With --rows or --trials only these, and no page. Exits with 1 where something was not as expected.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable

from .page import PATH, page
from .rows import ROWS, Shown, shown_by_tests, shown_over_http
from .trial import Result, Trial
from .trials import TRIALS


def mark(held: bool) -> str:
    """Returns the beginning of a line."""
    return "ok " if held else "BAD"


async def send_rows(numbers: Iterable[int]) -> list[Shown]:
    """Sends the rows of these numbers, prints a line for each case, and returns them."""
    lines = []
    async for line in shown_over_http(row for row in ROWS if row.number in numbers):
        lines.append(line)
        seen = f"{line.seen.status}, {line.seen.body}; next request {line.next_served}"
        print(f"{mark(line.held)} {line.row.number:2d} {line.input[:60]}: {seen}", flush=True)
    return lines


async def run_trials(trials: Iterable[Trial]) -> list[tuple[Trial, Result]]:
    """Runs trials one after another, prints a line for each, and returns them with their results."""
    done = []
    for one in trials:
        result = await one.run()
        done.append((one, result))
        print(f"{mark(result.held)} {one.name}: {result.figures} (before: {one.before})", flush=True)
    return done


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make robustness", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", help="send these rows, or all of them")
    parser.add_argument(
        "--trials", nargs="*", help=f"run these of {', '.join(t.name for t in TRIALS)}, or all"
    )
    args = parser.parse_args()
    unknown = set(args.trials or ()) - {one.name for one in TRIALS}
    if unknown:
        parser.error(f"no trials: {', '.join(sorted(unknown))}")
    whole = args.rows is None and args.trials is None
    lines: list[Shown] = []
    results: list[tuple[Trial, Result]] = []
    if whole or args.rows is not None:
        lines = asyncio.run(send_rows(args.rows or [row.number for row in ROWS]))
    if whole or args.trials is not None:
        results = asyncio.run(run_trials(t for t in TRIALS if not args.trials or t.name in args.trials))
    if whole:
        lines += shown_by_tests(ROWS)
        PATH.write_text(page(ROWS, lines, results))
    sys.exit(int(not (all(line.held for line in lines) and all(r.held for _, r in results))))


if __name__ == "__main__":
    main()
