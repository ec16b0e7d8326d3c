"""Native loops over float32 rows for the work of a decoder between its products."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._exp2 import LOG2_E, exp2
from .._native import native
from ..attention_stats.numba_loops import check
from .formats import LANES

Float32 = npt.NDArray[np.float32]

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)


@native("contract", "reassoc", "nsz")
def rms_norm(x: Float32, weight: Float32, eps: float, out: Float32) -> None:
    """Sets out = x * weight / sqrt(mean(x^2) + eps), over the length of ``weight``."""
    n = weight.shape[0]
    total = _ZERO
    for i in range(n):
        total += x[i] * x[i]
    scale = np.float32(1.0 / math.sqrt(total / n + eps))
    for i in range(n):
        out[i] = x[i] * scale * weight[i]


@native("contract")
def rotate(x: Float32, cos: Float32, sin: Float32, out: Float32) -> None:
    """Sets out to the rotary embedding of a head x [D] by its position's cos, sin [D / 2]."""
    half = cos.shape[0]
    for i in range(half):
        a, b = x[i], x[half + i]
        out[i] = a * cos[i] - b * sin[i]
        out[half + i] = b * cos[i] + a * sin[i]


@native("contract")
def gate(pairs: Float32, out: Float32) -> None:
    """Sets out = silu(gate) * up; pairs [2 n] holds 16 of the gate, 16 of up, in turns."""
    for panel in range(out.shape[0] // LANES):
        at = 2 * panel * LANES
        for i in range(LANES):
            g = pairs[at + i]
            e = exp2(np.float32(-abs(g) * LOG2_E))
            share = (_ONE if g >= _ZERO else e) / (_ONE + e)
            out[panel * LANES + i] = g * share * pairs[at + LANES + i]


@native()
def check_tokens(ids: Any, positions: Any, cache_index: Any, vocab: int, longest: int, cells: int) -> None:
    """Raises IndexError where a token id, a position or a cache index is out of range."""
    for t in range(ids.shape[0]):
        if ids[t] < 0 or ids[t] >= vocab:
            raise IndexError("a token id is outside the vocabulary")
        if positions[t] < 0 or positions[t] >= longest:
            raise IndexError("a position is beyond the rotary table")
        if cache_index[t] < 0 or cache_index[t] >= cells:
            raise IndexError("a cache index is outside the cache")


@native()
def check_step(
    ids: Any,
    positions: Any,
    cache_index: Any,
    vocab: int,
    longest: int,
    block_table: Any,
    lengths: Any,
    blocks: int,
    block: int,
) -> int:
    """Raises IndexError where an input of a step is out of range. Returns the keys that its rows see."""
    check_tokens(ids, positions, cache_index, vocab, longest, blocks * block)
    return check(block_table, lengths, blocks, block, 0, 1) if lengths.shape[0] > 0 else 0
