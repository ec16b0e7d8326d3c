"""Turns the figures of a comparison into the cells, grids and sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from .blocks import Grid
from .bootstrap import Interval
from .comparison import Row, Table
from .open_text import MEASURES
from .summary import Half

_OPEN_NAMES: Final = {"repeated_4grams": "repeated 4-grams", "mean_surprisal": "surprisal, bits a token"}


def negatives(half: Half, baseline: str) -> Iterator[str]:
    """Yields a sentence for each thing that did not come out on a half."""
    if not half.tables:
        return
    where = "test" if half.split == "test" else "fit"
    for row in ordered(half.tables[0], baseline):
        if row.difference is None or not row.difference.n:
            continue
        figures = (
            f"{in_points(row.difference)} points on the {where} half at {row.relative:.1f} times the tokens"
        )
        if row.difference.high < 0:
            yield f"`{row.arm}` is worse than `{baseline}`: {figures}"
        elif row.difference.low <= 0:
            yield f"`{row.arm}` is not told apart from `{baseline}`: {figures}"
    for table in half.tables[1:]:
        for row in table.rows:
            if row.difference is not None and row.difference.n and row.difference.high < 0:
                yield f"`{row.arm}` is worse on {table.family}: {in_points(row.difference)} points"
    own_row = next((row for row in half.open if row.arm == baseline), None)
    if own_row is not None:
        share = own_row.means["repeated_4grams"].estimate
        for open_row in half.open:
            other = open_row.means["repeated_4grams"].estimate
            if other > share:
                shares = f"{other:.3f} of the 4-grams, {share:.3f}"
                yield f"`{open_row.arm}` repeats more than `{baseline}` on open prompts: {shares}"


def ordered(table: Table, baseline: str) -> list[Row]:
    """Returns the rows as they are shown: the baseline, then the arms from the worst difference on."""
    return sorted(
        table.rows,
        key=lambda row: (
            row.arm != baseline,
            math.inf if row.difference is None or not row.difference.n else row.difference.estimate,
        ),
    )


def table_grid(table: Table, baseline: str) -> Grid:
    """Returns the grid of a table, a row an arm."""
    rows = []
    for row in ordered(table, baseline):
        difference = row.difference
        rows.append(
            (
                row.arm,
                str(row.accuracy.n),
                percent(row.accuracy),
                "" if difference is None else in_points(difference),
                "" if row.holm is None else f"{row.holm:.4f}",
                f"{row.spent:.1f}",
                f"{row.relative:.2f}",
                f"{row.tokens:.1f}",
            )
        )
    head = ("arm", "items", "right, %", f"minus {baseline}, points", "p", "tokens", "times", "of the answer")
    return Grid(head, tuple(rows))


def open_grid(half: Half) -> Grid:
    """Returns the grid of the open prompts, a row an arm."""
    rows = []
    for row in half.open:
        cells = [f"{row.means[name].estimate:.3f}" if row.means[name].n else "" for name in MEASURES[:-2]]
        cells += [f"{row.means[name].estimate:.0f}" for name in MEASURES[-2:]]
        interval = row.means["repeated_4grams"]
        cells[0] = f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        together = " / ".join(f"{row.distinct[n]:.2f}" for n in (1, 2, 3))
        rows.append((row.arm, str(row.n), *cells, together))
    head = [_OPEN_NAMES.get(name, name.replace("_", " ")) for name in MEASURES]
    return Grid(("arm", "prompts", *head, "distinct 1 / 2 / 3, all replies"), tuple(rows))


def limits(interval: Interval) -> tuple[float, float, float]:
    """Returns an interval as estimate, low and high end."""
    return interval.estimate, interval.low, interval.high


def percent(interval: Interval) -> str:
    """Returns a share with its interval in per cent; nothing of no item."""
    if not interval.n:
        return ""
    return f"{interval.estimate * 100:.1f} [{interval.low * 100:.1f}, {interval.high * 100:.1f}]"


def in_points(interval: Interval) -> str:
    """Returns a difference with its interval in points; nothing of no item."""
    if not interval.n:
        return ""
    # z: a bound of 0 is -1e-17 on some processors and must not print as -0.0 there
    return f"{interval.estimate * 100:+z.1f} [{interval.low * 100:+z.1f}, {interval.high * 100:+z.1f}]"


def triple(values: tuple[float, float, float]) -> str:
    """Returns a figure with its interval to three decimals; nothing where it is not known."""
    return "" if math.isnan(values[0]) else f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
