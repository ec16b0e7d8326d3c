"""The adjustments of a step: the changes of a batch's logits before and after the measurement.

Masks and biases come before it: signals and log probabilities are those of the allowed tokens.
Penalties come after it, before the temperature. A batch of rows without any of these has no adjustments.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from entropick_kernels.adjust.arrays import Entries, Floats, Integers, Masks, words_of
from entropick_kernels.adjust.reference import penalise_reference

__all__ = ["Adjustments", "Entries", "Masks", "entries_of", "words_of"]

NO_PENALTY: Final = (0.0, 0.0, 1.0)
"""The presence, frequency and repetition penalty that change nothing."""


class Adjustments(NamedTuple):
    """The adjustments of B rows.

    ``masks``: the tokens that some rows are allowed; ``added``: numbers for the logits of some tokens,
    -infinity for a banned token; ``seen``: the tokens of prompt and output that are penalised, whose values
    count how often each stands in the output, with ``factors`` float64 [B, 3]: presence, frequency and
    repetition penalty of each row. None where no row has any. Formulas:
    :mod:`entropick_kernels.adjust.reference`.
    """

    masks: Masks | None = None
    added: Entries | None = None
    seen: Entries | None = None
    factors: Floats | None = None

    def check(self, rows: int, vocabulary: int) -> None:
        """Raises ValueError for adjustments that do not fit logits of this many rows and tokens."""
        if self.masks is not None:
            numbers, words = self.masks
            if words.dtype != np.int32 or words.ndim != 2 or not words.flags.c_contiguous:
                raise ValueError("the words of masks must be int32 [M, W], C-contiguous")
            if len(numbers) != len(words) or not _below(numbers, rows):
                raise ValueError(f"masks of {len(words)} rows do not fit a batch of {rows}")
        for entries in (self.added, self.seen):
            if entries is None:
                continue
            if len(entries.starts) != rows + 1 or not _below(entries.ids, vocabulary):
                raise ValueError(f"entries do not fit {rows} rows of {vocabulary} tokens")
        if self.seen is not None and (self.factors is None or self.factors.shape != (rows, 3)):
            raise ValueError(f"the penalties of {rows} rows must have the shape [{rows}, 3]")

    def penalised(self, row: int, logits: npt.ArrayLike) -> Floats | None:
        """Returns the logits [V] of a row after penalties, in float64; None where the row has none."""
        if self.seen is None or self.factors is None:
            return None
        starts, ids, counts = self.seen
        own = slice(starts[row], starts[row + 1])
        if own.start == own.stop:
            return None
        entries = Entries(np.array([0, own.stop - own.start]), ids[own], counts[own])
        x = np.asarray(logits, np.float64)[None]
        penalised: Floats = penalise_reference(x, entries, self.factors[row : row + 1])[0]
        return penalised

    def only_choices(self, vocabulary: int) -> frozenset[int]:
        """Returns the numbers of the rows whose mask leaves a single token of the vocabulary."""
        if self.masks is None:
            return frozenset()
        return frozenset(self.masks.rows[self.masks.allowed(vocabulary) == 1].tolist())


def entries_of(ids: list[Integers], values: list[Floats]) -> Entries | None:
    """Returns the entries of rows from the ids and the values of each, None where there are none."""
    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(of_row) for of_row in ids], out=starts[1:])
    return Entries(starts, np.concatenate(ids), np.concatenate(values)) if starts[-1] else None


def _below(numbers: Integers, limit: int) -> bool:
    return not len(numbers) or (int(numbers.min()) >= 0 and int(numbers.max()) < limit)
