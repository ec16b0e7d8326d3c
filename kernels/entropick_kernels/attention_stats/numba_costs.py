"""The token costs of decode attention as native loops, from the probabilities that attention left behind."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from .._native import native
from .costs import LEAST_KNOWN
from .numba_loops import Float32, Int32

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_NAN: Final = np.float32(math.nan)
_LEAST: Final = np.float32(LEAST_KNOWN)


@native()
def row_surprisals(
    surprisals: Float32, blocks: Int32, start: int, length: int, bits: Float32, known: Float32
) -> Any:
    """Copies the surprisals of a row's keys start..length, and returns the mean of the known, 0 for none.

    ``surprisals`` [P, block], ``blocks``: the row's block ids. Sets bits [n] (0 where not known) and known
    [n], 1 or 0.
    """
    block = surprisals.shape[1]
    total, count = _ZERO, 0
    for t in range(start, length):
        x = surprisals[blocks[t // block], t % block]
        there = x >= _ZERO
        bits[t - start] = x if there else _ZERO
        known[t - start] = _ONE if there else _ZERO
        total += bits[t - start]
        count += 1 if there else 0
    return total / np.float32(count) if count else _ZERO


@native("contract", "reassoc", "nsz")
def head_cost(
    p: Float32, bits: Float32, known: Float32, n: int, mean: Any, sees_first: bool, out: Float32
) -> None:
    """Sets out [4], the cost figures of one head, from its probabilities p [n]; see ``token_costs``."""
    total = mass = _ZERO
    for t in range(n):
        total += p[t] * bits[t]
        mass += p[t] * known[t]
    cost = total / mass if mass >= _LEAST else _NAN
    out[0] = cost
    out[1] = cost / mean if mean > _ZERO else _NAN
    out[2] = p[0] if sees_first else _NAN
    out[3] = mass


@native()
def row_costs(p: Float32, surprisals: Float32, blocks: Int32, start: int, length: int, out: Float32) -> None:
    """Sets out [H, 4], the cost figures of a row's heads, from their probabilities p [H, n or more]."""
    n = length - start
    bits, known = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    mean = row_surprisals(surprisals, blocks, start, length, bits, known)
    for h in range(p.shape[0]):
        head_cost(p[h], bits, known, n, mean, start == 0 and n > 0, out[h])


@native()
def costs_into(
    probabilities: Float32,
    surprisals: Float32,
    block_table: Int32,
    lengths: Int32,
    window: int,
    out: Float32,
) -> None:
    """Sets out [B, H, 4] from probabilities [B, H, K], which begin at the first key that a row sees."""
    for b in range(lengths.shape[0]):
        length = lengths[b]
        start = length - window if 0 < window < length else 0
        row_costs(probabilities[b], surprisals, block_table[b], start, length, out[b])
