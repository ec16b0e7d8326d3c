"""The shape of one row of float32 logits, as native loops.

Every function reads a row with a finite maximum ``top`` and without NaN. Formulas: ``reference.py``.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._native import native
from ..logits_stats.numba_impl import row_stats
from ..sample.numba_loops import BUCKETS, bucket_of, fill_weights, sorted_bucket
from .reference import PREFIX_TOLERANCE
from .torch_impl import CLOSE, SMALL

Float32 = npt.NDArray[np.float32]

_CHUNK: Final = 1024
_ROUNDS: Final = 40
_LN2: Final = math.log(2.0)
_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)


@native("contract", "reassoc", "nsz")
def chunk_spread(x: Float32, lo: int, hi: int, top: Any) -> tuple[Any, Any, Any]:
    """Returns (count, mean, centred second moment) of x[lo:hi] - top where x is not masked."""
    count = first = second = _ZERO
    for i in range(hi - lo):
        d = np.float32(x[lo + i] - top)
        seen = _ONE if d > -math.inf else _ZERO
        count += seen
        first += d if d > -math.inf else _ZERO
    mean = first / count if count != _ZERO else _ZERO
    for i in range(hi - lo):
        d = np.float32(np.float32(x[lo + i] - top) - mean)
        second += d * d if d > -math.inf else _ZERO
    return count, mean, second


@native()
def row_spread(x: Float32, top: Any) -> tuple[float, float]:
    """Returns (count, standard deviation in nats) of the logits that are not masked."""
    count, mean, second = 0.0, 0.0, 0.0
    for lo in range(0, x.shape[0], _CHUNK):
        # Chan, Golub, LeVeque (1979): moments of a union
        part, centre, spread = chunk_spread(x, lo, min(lo + _CHUNK, x.shape[0]), top)
        if part != 0:
            d, union = centre - mean, count + part
            second += spread + d * d * (count * part / union)
            mean += d * (part / union)
            count = union
    return count, math.sqrt(second / count)


@native()
def row_log_temperature(x: Float32, top: Any, entropy: float, low: float, high: float) -> float:
    """Returns ln T of the temperature at which the row has an entropy (bits), inside [low, high].

    The method is that of ``torch_impl.log_temperature``; it ends where a step is small.
    """
    tempered, figures = np.empty(x.shape[0], np.float32), np.empty(4, np.float32)
    weights = np.empty(_CHUNK, np.float32)
    below, above, below_is_limit, above_is_limit = low, high, True, True
    at = min(max(0.0, low), high)
    for _ in range(_ROUNDS):
        scale = np.float32(math.exp(-at))
        for i in range(x.shape[0]):
            tempered[i] = np.float32(x[i] - top) * scale
        row_stats(tempered, figures, weights)
        measured = np.float64(figures[0])
        if measured < entropy:
            below, below_is_limit = at, False
        else:
            above, above_is_limit = at, False
        middle = (below + above) / 2
        rise = 1.0 + math.log(measured / entropy) * measured / (figures[1] * _LN2)
        target = at - math.log(max(rise, 0.0))
        target = target if measured > SMALL else middle
        if abs(target - at) < CLOSE:
            return at
        if target <= below:
            target = below if below_is_limit else middle
        elif target >= above:
            target = above if above_is_limit else middle
        if target == at:
            return at
        at = target
    return at


@native()
def entropy_of(mass: float, moment: float) -> float:
    """Returns the entropy (nats) of weights exp(d) from their sum and the sum of weight * d."""
    return math.log(mass) - moment / mass


@native()
def row_prefix_depth(x: Float32, top: Any, share: float, weights: Float32) -> float:
    """Returns how far the last token of top-H's prefix lies below ``top``, nats; ``weights`` [V]: scratch.

    Tokens are put into buckets by the leading bits of their weight; only the bucket in which the prefix ends
    is sorted.
    """
    fill_weights(x, top, _ONE, weights)
    counts, deepest = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.float64)
    masses, moments = np.zeros(BUCKETS, np.float64), np.zeros(BUCKETS, np.float64)
    for i in range(x.shape[0]):
        if weights[i] > 0:
            b, d = bucket_of(weights[i]), np.float64(x[i] - top)
            counts[b] += 1
            masses[b] += weights[i]
            moments[b] += weights[i] * d
            deepest[b] = min(deepest[b], d)
    limit = share * entropy_of(masses.sum(), moments.sum()) * (1.0 + PREFIX_TOLERANCE)
    mass, moment, depth = 0.0, 0.0, 0.0
    for b in range(BUCKETS - 1, -1, -1):
        if counts[b] == 0:
            continue
        if entropy_of(mass + masses[b], moment + moments[b]) > limit:
            for i in sorted_bucket(x, weights, b, counts[b]):
                mass += weights[i]
                moment += weights[i] * np.float64(x[i] - top)
                if entropy_of(mass, moment) > limit:
                    break
                depth = np.float64(top - x[i])
            break
        mass += masses[b]
        moment += moments[b]
        depth = -deepest[b]
    return depth
