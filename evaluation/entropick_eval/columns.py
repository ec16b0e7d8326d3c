"""Writes the per-token figures of a reply as short texts, and reads them again.

A column is a text of whole numbers, a number a token: figures in units of their last kept digit, places in
the text as the characters since the token before. Compressed it takes half the bytes of the same numbers as
JSON. What is kept is rounded first (:func:`rounded`), so writing and reading lose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .replies import OFFSET

Column = Sequence[float | None]
DIGITS: Final[Mapping[str, int]] = {OFFSET: 0, "surprisal": 2, "logits_entropy": 2}
"""decimals that are kept of a signal"""
_DIGITS: Final = 3
_ABSENT: Final = "-"


class ColumnError(ValueError):
    """An error in the text of a column."""


def rounded(name: str, column: Column) -> tuple[float | None, ...]:
    """Returns a signal's values with the decimals that are kept of it; None stays None."""
    digits = DIGITS.get(name, _DIGITS)
    # + 0.0: no minus zero, which a whole number cannot say
    return tuple(None if value is None else round(float(value), digits) + 0.0 for value in column)


def to_text(name: str, column: Column) -> str:
    """Returns the text of a signal's column, whose values are rounded."""
    scale = 10 ** DIGITS.get(name, _DIGITS)
    whole = [None if value is None else round(value * scale) for value in column]
    if name == OFFSET:
        whole = list(_differences(whole))
    return " ".join(_ABSENT if value is None else str(value) for value in whole)


def from_text(name: str, text: str) -> tuple[float | None, ...]:
    """Returns the column of a text. Raises ColumnError."""
    digits = DIGITS.get(name, _DIGITS)
    try:
        whole = [None if part == _ABSENT else int(part) for part in text.split()]
    except ValueError as error:
        raise ColumnError(f"{name}: not a column of whole numbers: {text[:40]!r}") from error
    if name == OFFSET:
        whole = list(_sums(whole))
    scale = 10**digits
    return tuple(None if value is None else round(value / scale, digits) for value in whole)


def _differences(values: Sequence[int | None]) -> Iterator[int | None]:
    before = 0
    for value in values:
        yield None if value is None else value - before
        before = before if value is None else value


def _sums(values: Sequence[int | None]) -> Iterator[int | None]:
    before = 0
    for value in values:
        before += value or 0
        yield None if value is None else before
