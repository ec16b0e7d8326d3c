"""The draw in float64, row by row in plain numpy: Philox-4x32-10, the filters, the inverse CDF.

Every other implementation is checked against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .._arrays import ArrayLike, BoolArray, FloatArray, as_float64, as_numpy

IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]

# J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC11), section 3.3
PHILOX_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS: Final = 10
WORD_MASK: Final = 0xFFFFFFFF

FILTER_TOLERANCE: Final = 1e-6
"""slack of the top-p and min-p comparisons"""


def philox_words_reference(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> tuple[WordArray, ...]:
    """Computes Philox-4x32-10: four words of a counter of four and a key of two; uint64 arrays below 2^32."""
    mask = np.uint64(WORD_MASK)
    c = [np.asarray(as_numpy(x), dtype=np.uint64) & mask for x in counter]
    k = [np.asarray(as_numpy(x), dtype=np.uint64) & mask for x in key]
    half = np.uint64(32)
    for _ in range(PHILOX_ROUNDS):
        left = c[0] * np.uint64(PHILOX_MULTIPLIERS[0])
        right = c[2] * np.uint64(PHILOX_MULTIPLIERS[1])
        c = [(right >> half) ^ c[1] ^ k[0], right & mask, (left >> half) ^ c[3] ^ k[1], left & mask]
        k = [(k[0] + np.uint64(PHILOX_WEYL[0])) & mask, (k[1] + np.uint64(PHILOX_WEYL[1])) & mask]
    return tuple(c)


def philox_uniform_reference(
    seed: ArrayLike, position: ArrayLike, draw: ArrayLike, stream: ArrayLike
) -> FloatArray:
    """Computes the uniform number in [0, 1) of each (seed, position, draw, stream); integers, broadcast.

    Key = (low, high 32 bits of seed); counter = (position, draw, stream, 0), each modulo 2^32; with x the
    output words the number is (x0 * 2^21 + floor(x1 / 2^11)) * 2^-53.
    """
    arguments = (np.asarray(as_numpy(a), dtype=np.int64) for a in (seed, position, draw, stream))
    s, *counter = (a.astype(np.uint64) for a in arguments)
    x = philox_words_reference([*counter, np.uint64(0)], [s, s >> np.uint64(32)])
    bits = (x[0] << np.uint64(21)) | (x[1] >> np.uint64(11))
    return np.asarray(bits.astype(np.float64) * 2.0**-53)[()]


def _kept(p: FloatArray, top_k: int, top_p: float, min_p: float) -> BoolArray:
    """Returns which tokens of one distribution [V] survive the filters."""
    order = np.argsort(-p, kind="stable")  # ties by token id
    if 0 < top_k < p.shape[0]:
        order = order[:top_k]
    if top_p < 1.0:
        sorted_p = p[order] / p[order].sum()
        before = np.concatenate(([0.0], np.cumsum(sorted_p)[:-1]))
        order = order[: max(1, int((before < top_p - FILTER_TOLERANCE).sum()))]
    keep = np.zeros(p.shape, dtype=np.bool_)
    keep[order] = True
    if min_p > 0.0:
        keep &= p >= min(min_p, 1.0) * (1.0 - FILTER_TOLERANCE) * p.max()
    return keep


def filter_probabilities_reference(
    p: ArrayLike, top_k: ArrayLike = 0, top_p: ArrayLike = 1.0, min_p: ArrayLike = 0.0
) -> FloatArray:
    """Filters and renormalises probabilities p [..., V], float64; parameters scalar or [...].

    top-k (ties by token id), renormalise, top-p (the smallest prefix whose mass reaches top_p), min-p
    (p >= min_p * the maximum of the input p), renormalise. Off: top_k <= 0, top_p >= 1, min_p <= 0. The most
    probable token always survives. Both comparisons allow 1e-6 (``FILTER_TOLERANCE``), so that exact ties
    do not hang on rounding: of ten equal tokens, top_p = 0.7 keeps seven in any precision.
    """
    given = as_float64(p)
    lead = given.shape[:-1]
    parameters = [np.broadcast_to(as_numpy(a), lead) for a in (top_k, top_p, min_p)]
    out = np.zeros_like(given)
    for row in np.ndindex(lead):
        k, mass, floor = (a[row] for a in parameters)
        kept = np.where(_kept(given[row], int(k), float(mass), float(floor)), given[row], 0.0)
        out[row] = kept / kept.sum()
    return out


def draw_reference(
    logits: ArrayLike,
    temperature: ArrayLike,
    top_k: ArrayLike,
    top_p: ArrayLike,
    min_p: ArrayLike,
    uniforms: ArrayLike,
) -> IntArray:
    """Draws token ids int64 [B, N] of logits [B, V] with parameters [B] and uniform numbers [B, N].

    softmax(logits / T), the filters, then the smallest id whose cumulative probability exceeds u. T = 0: the
    most probable token, lowest id on ties, in every column.
    """
    x, u = as_float64(logits), as_float64(uniforms)
    parameters = (temperature, top_k, top_p, min_p)
    t, k, mass, floor = (np.broadcast_to(as_numpy(a), x.shape[:1]) for a in parameters)
    tokens = np.zeros(u.shape, dtype=np.int64)
    for row in range(x.shape[0]):
        if t[row] == 0:
            tokens[row] = x[row].argmax()
            continue
        weights = np.exp((x[row] - x[row].max()) / float(t[row]))
        p = filter_probabilities_reference(weights / weights.sum(), k[row], mass[row], floor[row])
        cdf = np.cumsum(p)
        tokens[row] = np.searchsorted(cdf, u[row] * cdf[-1], side="right")
    return tokens
