"""The adjustments of a row's logits in the native step: from a batch's adjustments to native arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from entropick_kernels.loops import add_row, address, mask_row, native, penalise_row, restore_row

from ..adjustments import Adjustments, Entries

ADJUSTED = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("rows", "masks", "words", "added", "seen", "longest"),
            *("mask_of", "mask_words", "added_starts", "added_ids", "added_values"),
            *("seen_starts", "seen_ids", "seen_counts", "factors"),
        )
    ]
)
"""The adjustments of a step.

``rows``: B; ``masks``, ``words``: M, W; ``added``, ``seen``: numbers of entries; ``longest``: the largest
number of seen tokens of a row. The others are addresses: of the mask of each row int64 [B], -1 for none, of
the masks' words int32 [M, W], of the two Entries, and of the penalties float64 [B, 3].
"""


class AdjustedRows(NamedTuple):
    """The adjustments of B rows as native arrays; the fields of ADJUSTED."""

    mask_of: Any
    mask_words: Any
    added_starts: Any
    added_ids: Any
    added_values: Any
    seen_starts: Any
    seen_ids: Any
    seen_counts: Any
    factors: Any


class AdjustedRecord:
    """The record of a batch's adjustments, which every step has anew."""

    def __init__(self, rows: int) -> None:
        """Makes the record of rows without any."""
        self._no_mask = np.full(rows, -1, dtype=np.int64)
        self._no_entries = Entries(np.zeros(rows + 1, dtype=np.int64), np.zeros(0, np.int64), np.zeros(0))
        self._no_words = np.zeros((0, 0), dtype=np.int32)
        self._no_factors = np.zeros((rows, 3))
        self._record = np.zeros(1, dtype=ADJUSTED)
        self._record["rows"] = rows
        self._kept: tuple[npt.NDArray[Any], ...] = ()
        self._clear = False
        self.put(None)

    @property
    def address(self) -> int:
        """Returns the address of the record."""
        return int(self._record.ctypes.data)

    def put(self, adjustments: Adjustments | None) -> None:
        """Writes the adjustments of a step, whose arrays are kept until the next; None for none."""
        if adjustments is None and self._clear:
            return
        self._clear = adjustments is None
        masks, added, seen, factors = adjustments or Adjustments()
        mask_of, words = self._no_mask, self._no_words
        if masks is not None:
            mask_of, words = self._no_mask.copy(), masks.words
            mask_of[masks.rows] = np.arange(len(words))
        added, seen = added or self._no_entries, seen or self._no_entries
        penalties = self._no_factors if factors is None else factors
        arrays: tuple[npt.NDArray[Any], ...] = (mask_of, words, *added, *seen, penalties)
        self._kept = arrays
        record = self._record[0]
        record["masks"], record["words"] = words.shape
        record["added"], record["seen"] = len(added.ids), len(seen.ids)
        record["longest"] = int(np.diff(seen.starts).max(initial=0))
        for name, array in zip(AdjustedRows._fields, arrays, strict=True):
            record[name] = array.ctypes.data


@native()
def adjusted_rows(at: int) -> Any:
    """Returns the adjustments at an address, and scratch for the logits of a row's seen tokens."""
    a = numba.carray(address(at), (1,), ADJUSTED)[0]
    rows = AdjustedRows(
        numba.carray(address(a.mask_of), (a.rows,), np.int64),
        numba.carray(address(a.mask_words), (a.masks, a.words), np.int32),
        numba.carray(address(a.added_starts), (a.rows + 1,), np.int64),
        numba.carray(address(a.added_ids), (a.added,), np.int64),
        numba.carray(address(a.added_values), (a.added,), np.float64),
        numba.carray(address(a.seen_starts), (a.rows + 1,), np.int64),
        numba.carray(address(a.seen_ids), (a.seen,), np.int64),
        numba.carray(address(a.seen_counts), (a.seen,), np.float64),
        numba.carray(address(a.factors), (a.rows, 3), np.float64),
    )
    return rows, np.empty(a.longest, np.float32)


@native()
def adjust_before(x: Any, b: int, rows: AdjustedRows) -> None:
    """Masks the logits x [V] of row b, and adds its biases."""
    if rows.mask_of[b] >= 0:
        mask_row(x, rows.mask_words[rows.mask_of[b]])
    lo, hi = rows.added_starts[b], rows.added_starts[b + 1]
    if hi > lo:
        add_row(x, rows.added_ids[lo:hi], rows.added_values[lo:hi])


@native()
def penalise_seen(x: Any, b: int, rows: AdjustedRows, before: Any) -> bool:
    """Penalises the seen tokens of row b, and tells whether there are any."""
    lo, hi = rows.seen_starts[b], rows.seen_starts[b + 1]
    if hi > lo:
        penalise_row(x, rows.seen_ids[lo:hi], rows.seen_counts[lo:hi], rows.factors[b], before)
    return bool(hi > lo)


@native()
def restore_seen(x: Any, b: int, rows: AdjustedRows, before: Any) -> None:
    """Gives the seen tokens of row b the logits back that they had before penalties."""
    lo, hi = rows.seen_starts[b], rows.seen_starts[b + 1]
    restore_row(x, rows.seen_ids[lo:hi], before)
