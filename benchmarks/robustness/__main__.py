"""Sends every bad input, brings every fault about, and writes docs/robustness.md.

With --rows or --trials only these; the page gets the last results of the others, which build/robustness.json
keeps. Exits with 1 where something was not as expected.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from .cases import Row
from .page import PATH, page
from .results import Results
from .rows import ROWS, Shown, shown_by_tests, shown_over_http
from .served import NotReadyError
from .trial import Result, Trial
from .trials import TRIALS


def mark(held: bool | None) -> str:
    """Returns the beginning of a line."""
    return "BAD" if held is False else "ok "


def keep_line(results: Results, line: Shown) -> bool:
    """Prints and keeps a line of the table; True if it is as expected."""
    results.keep_line(line)
    seen = f"{line.seen.status}, {line.seen.body}; next request {line.next_served}"
    print(f"{mark(line.held)} {line.row.number:2d} {line.input[:60]}: {seen}", flush=True)
    return line.held


async def run(rows: Sequence[Row], trials: Sequence[Trial], results: Results) -> bool:
    """Sends rows and runs trials, and keeps and prints what each gives; True if all was as expected."""
    held = [keep_line(results, line) async for line in shown_over_http(rows)]
    held += [keep_line(results, line) for line in shown_by_tests(rows)]
    for one in trials:
        try:
            result = await one.run()
        except NotReadyError as error:
            result = Result(str(error).splitlines()[-1], False)
        results.keep_trial(one, result)
        held.append(result.held is not False)
        print(f"{mark(result.held)} {one.name}: {result.figures} (before: {one.before})", flush=True)
    return all(held)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make robustness", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", help="send these rows, or all of them")
    parser.add_argument(
        "--trials", nargs="*", help=f"run these of {', '.join(t.name for t in TRIALS)}, or all"
    )
    parser.add_argument("--page", action="store_true", help="run nothing, write the page again")
    args = parser.parse_args()
    unknown = set(args.trials or ()) - {one.name for one in TRIALS}
    if unknown:
        parser.error(f"no trials: {', '.join(sorted(unknown))}")
    every = args.rows is None and args.trials is None and not args.page
    rows = [row for row in ROWS if every or args.rows == [] or row.number in (args.rows or ())]
    trials = [one for one in TRIALS if every or args.trials == [] or one.name in (args.trials or ())]
    results = Results()
    held = asyncio.run(run(rows, trials, results))
    try:
        PATH.write_text(page(ROWS, results.lines(ROWS), results.trials(TRIALS)))
    except KeyError as missing:
        print(f"no page: {missing} has no result yet; run it, or all")
    sys.exit(int(not held))


if __name__ == "__main__":
    main()
