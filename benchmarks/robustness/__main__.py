"""Sends every bad input, brings every fault about, and writes docs/robustness.md: ``python -m robustness``.

Exits with 1 where something was not as expected.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from .page import PATH, page
from .rows import ROWS, Shown, shown_by_tests, shown_over_http


async def over_http(numbers: list[int]) -> list[Shown]:
    lines = []
    async for line in shown_over_http(row for row in ROWS if not numbers or row.number in numbers):
        lines.append(line)
        mark = "ok " if line.held else "BAD"
        print(
            f"{mark} {line.row.number:2d} {line.input[:60]}: {line.seen.status}, {line.seen.body}", flush=True
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="make robustness", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows to send alone; writes no page")
    args = parser.parse_args()
    if args.rows is not None:
        lines = asyncio.run(over_http(args.rows))
        sys.exit(int(not all(line.held for line in lines)))
    lines = [*asyncio.run(over_http([])), *shown_by_tests(ROWS)]
    PATH.write_text(page(ROWS, lines, ""))
    sys.exit(int(not all(line.held for line in lines)))


if __name__ == "__main__":
    main()
