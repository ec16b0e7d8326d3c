"""Native loops of the draw: CPU, float32 logits, one row at a time, no full sort.

Tokens are put into buckets by the leading bits of their weight; the cut of top-k and then of top-p falls into
one bucket, and only that one is sorted.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._exp2 import LOG2_E, LOWEST, exp2
from .._native import native
from .._rows import first_nan, row_top
from .reference import FILTER_TOLERANCE, PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, WORD_MASK

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_ZERO: Final = np.float32(0.0)
_BUCKET_SHIFT: Final = 20
BUCKETS: Final = (0x3F800000 >> _BUCKET_SHIFT) + 1
# the bits of a float32 in [0, 1] grow with it; the exponent and three bits of the mantissa make a bucket
_MASK: Final = np.uint64(WORD_MASK)
_HALF: Final = np.uint64(32)
_M0: Final = np.uint64(PHILOX_MULTIPLIERS[0])
_M1: Final = np.uint64(PHILOX_MULTIPLIERS[1])
_W0: Final = np.uint64(PHILOX_WEYL[0])
_W1: Final = np.uint64(PHILOX_WEYL[1])
_TOP_BITS: Final = np.uint64(21)
_DROPPED_BITS: Final = np.uint64(11)
_ROUNDS: Final = PHILOX_ROUNDS
_TOLERANCE: Final = FILTER_TOLERANCE


@native()
def philox_number(seed: int, position: int, draw: int, stream: int) -> float:
    """Computes the uniform number of (seed, position, draw, stream); layout: ``philox_uniform``."""
    c0, c1 = np.uint64(position) & _MASK, np.uint64(draw) & _MASK
    c2, c3 = np.uint64(stream) & _MASK, np.uint64(0)
    k0, k1 = np.uint64(seed) & _MASK, np.uint64(seed) >> _HALF
    for _ in range(_ROUNDS):
        left, right = c0 * _M0, c2 * _M1
        c0, c1 = (right >> _HALF) ^ c1 ^ k0, right & _MASK
        c2, c3 = (left >> _HALF) ^ c3 ^ k1, left & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return float((c0 << _TOP_BITS) | (c1 >> _DROPPED_BITS)) * 2.0**-53


@native()
def philox_uniforms(seed: Int64, position: Int64, draw: Int64, stream: Int64, out: Float64) -> None:
    """Computes the uniform number of each (seed, position, draw, stream), all [n]."""
    for i in range(out.shape[0]):
        out[i] = philox_number(seed[i], position[i], draw[i], stream[i])


@native("contract")
def fill_weights(x: Float32, top: Any, scale: Any, weights: Float32) -> None:
    """Sets weights = exp((x - top) * scale), 0 below 2^-126."""
    for i in range(x.shape[0]):
        y = np.float32(np.float32((x[i] - top) * scale) * LOG2_E)
        w = exp2(y)
        weights[i] = _ZERO if y < LOWEST else w


@native()
def bucket_of(weight: Any) -> Any:
    """Returns the bucket of a weight in (0, 1]."""
    return min(np.int64(np.float32(weight).view(np.int32)) >> _BUCKET_SHIFT, BUCKETS - 1)


@native()
def sorted_bucket(x: Float32, weights: Float32, bucket: int, size: int) -> Int64:
    """Returns the token ids of a bucket of ``size`` tokens by falling logit, ties by id."""
    ids, keys = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
    n = 0
    for i in range(x.shape[0]):
        if weights[i] > 0 and bucket_of(weights[i]) == bucket:
            ids[n], keys[n] = i, -x[i]
            n += 1
    return ids[np.argsort(keys, kind="mergesort")]


@native()
def rank_filter(x: Float32, weights: Float32, top_k: int, top_p: float) -> None:
    """Sets to 0 the weights that top-k and then top-p drop."""
    counts, masses = np.zeros(BUCKETS, dtype=np.int64), np.zeros(BUCKETS, dtype=np.float64)
    positive = 0
    for i in range(x.shape[0]):
        if weights[i] > 0:
            b = bucket_of(weights[i])
            counts[b] += 1
            masses[b] += weights[i]
            positive += 1
    # the bucket that top-k cuts, and how many of it stay
    k = top_k if 0 < top_k < positive else positive
    cut, above, mass = BUCKETS - 1, 0, 0.0
    while above + counts[cut] < k:
        above += counts[cut]
        mass += masses[cut]
        cut -= 1
    stay = k - above
    ids = sorted_bucket(x, weights, cut, counts[cut])
    if top_p < 1.0:
        for j in range(stay):
            mass += weights[ids[j]]
        target = (top_p - _TOLERANCE) * mass
        # the bucket that top-p cuts: this one or one above
        last, b, before = cut, BUCKETS - 1, 0.0
        while b > last and before + masses[b] < target:
            before += masses[b]
            b -= 1
        if b != last:
            cut, stay = b, counts[b]
            ids = sorted_bucket(x, weights, cut, stay)
        n = 0
        while n < stay and before < target:
            before += weights[ids[n]]
            n += 1
        stay = n
    for i in range(x.shape[0]):
        if weights[i] > 0 and bucket_of(weights[i]) < cut:
            weights[i] = _ZERO
    for j in range(stay, ids.shape[0]):
        weights[ids[j]] = _ZERO


@native()
def draw_beside(
    x: Float32,
    best: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniforms: Float64,
    tokens: Int64,
    weights: Float32,
    cdf: Float64,
    ids: Int64,
) -> None:
    """Draws as :func:`draw_row` where the most probable token ``best`` is known, and temperature > 0.

    The logit of ``best`` is finite. ``tokens`` holds ``best`` already: it stays where a uniform number points
    behind the last survivor.
    """
    fill_weights(x, x[best], np.float32(1.0 / temperature), weights)
    if top_k > 0 or top_p < 1.0:
        rank_filter(x, weights, top_k, top_p)
        weights[best] = np.float32(1.0)  # whatever top_p says, the most probable token stays
    floor = np.float32(min(min_p, 1.0) * (1.0 - _TOLERANCE))
    n, total = 0, 0.0
    for i in range(x.shape[0]):
        # a NaN is let through, so that it shows in the total
        if not (weights[i] < floor or weights[i] == _ZERO):
            total += weights[i]
            cdf[n], ids[n] = total, i
            n += 1
    if math.isnan(total):
        tokens[:] = max(first_nan(x), 0)
        return
    for j in range(uniforms.shape[0]):
        at = np.searchsorted(cdf[:n], uniforms[j] * total, side="right")
        if at < n:
            tokens[j] = ids[at]


@native()
def draw_row(
    x: Float32,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniforms: Float64,
    tokens: Int64,
    weights: Float32,
    cdf: Float64,
    ids: Int64,
) -> None:
    """Draws tokens [N] by the uniform numbers [N]; weights, cdf, ids are scratch of V."""
    best = row_top(x)
    tokens[:] = best
    top = x[best]
    if not (top > -math.inf and top < math.inf):
        nan = first_nan(x)
        tokens[:] = nan if nan >= 0 else best
    elif temperature > 0:
        draw_beside(x, best, temperature, top_k, top_p, min_p, uniforms, tokens, weights, cdf, ids)


@native()
def draw_rows(
    x: Float32,
    temperature: Float32,
    top_k: Int64,
    top_p: Float64,
    min_p: Float64,
    uniforms: Float64,
    tokens: Int64,
    begin: int,
    end: int,
) -> None:
    """Draws rows begin..end of :func:`entropick_kernels.sample.draw`."""
    vocabulary = x.shape[1]
    weights, cdf = np.empty(vocabulary, dtype=np.float32), np.empty(vocabulary, dtype=np.float64)
    ids = np.empty(vocabulary, dtype=np.int64)
    for b in range(begin, end):
        draw_row(
            x[b], temperature[b], top_k[b], top_p[b], min_p[b], uniforms[b], tokens[b], weights, cdf, ids
        )  # fmt: skip
