"""A series of numbers as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
ASCII_BARS: Final = "_.-:=+*#"


def sparkline(values: Sequence[float | None], top: float, width: int, bars: str = BARS) -> str:
    """Returns a bar for each value, from 0 (the lowest bar) to ``top`` (the highest); a gap for None.

    With more values than ``width`` a bar stands for several neighbours and shows the largest of them.
    """
    if width < 1 or top <= 0:
        return ""
    columns = min(width, len(values))
    line = []
    for column in range(columns):
        begin, end = column * len(values) // columns, (column + 1) * len(values) // columns
        known = [value for value in values[begin:end] if value is not None and math.isfinite(value)]
        line.append(bars[_height(max(known) / top, len(bars))] if known else " ")
    return "".join(line)


def _height(share: float, bars: int) -> int:
    """Returns the number of the bar whose part of 0..1 the share lies in."""
    return max(0, min(bars - 1, math.ceil(share * bars) - 1))
