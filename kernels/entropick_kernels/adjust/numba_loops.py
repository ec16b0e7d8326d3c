"""Native loops that adjust one row of float32 logits in place."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from .._native import native
from .arrays import LARGEST, WORD_BITS

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_EXCLUDED: Final = np.float32(-math.inf)
_LARGEST: Final = LARGEST
_BITS: Final = WORD_BITS


@native()
def mask_row(x: Float32, words: Int32) -> None:
    """Sets x [V] to -infinity where the words [W] do not allow a token."""
    size = x.shape[0]
    for w in range(-(-size // _BITS)):
        word = words[w] if w < words.shape[0] else np.int32(0)
        if word == -1:
            continue
        first = w * _BITS
        for bit in range(min(_BITS, size - first)):
            if not (word >> bit) & 1:
                x[first + bit] = _EXCLUDED


@native()
def add_row(x: Float32, ids: Int64, values: Float64) -> None:
    """Adds values [E] to the logits of some tokens of x [V]."""
    for e in range(ids.shape[0]):
        x[ids[e]] = np.float32(np.float64(x[ids[e]]) + values[e])


@native()
def penalise_row(x: Float32, ids: Int64, counts: Float64, factors: Float64, before: Float32) -> None:
    """Penalises the seen tokens of x [V] and keeps their logits in ``before`` [>= E].

    ``counts`` [E]: of each token in the output; ``factors``: presence, frequency, repetition.
    """
    for e in range(ids.shape[0]):
        logit = x[ids[e]]
        before[e] = logit
        if logit == _EXCLUDED:
            continue
        value = np.float64(logit)
        value = value / factors[2] if value > 0 else value * factors[2]
        value -= factors[1] * counts[e]
        if counts[e] > 0:
            value -= factors[0]
        x[ids[e]] = np.float32(min(max(value, -_LARGEST), _LARGEST))


@native()
def restore_row(x: Float32, ids: Int64, before: Float32) -> None:
    """Gives the seen tokens of x [V] the logits back that they had before penalties."""
    for e in range(ids.shape[0]):
        x[ids[e]] = before[e]
