"""The shape of next-token distributions in float64; every other implementation is checked against it.

A -inf logit is a mask: it belongs to no count, no deviation and no prefix. Every row needs a finite maximum.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from .._arrays import ArrayLike, FloatArray, as_float64
from ..logits_stats.reference import logits_entropy

PREFIX_TOLERANCE: Final = 1e-6
"""The share of its limit by which a prefix's entropy may exceed it, so that ties fall alike in float32."""


class ReferenceSpread(NamedTuple):
    """The result of :func:`logits_spread_reference`: the fields of ``Spread``, float64 [...]."""

    tokens: FloatArray
    deviation: FloatArray


def logits_spread_reference(logits: ArrayLike) -> ReferenceSpread:
    """Counts the tokens that are not masked, and computes the standard deviation of their logits.

    Logits [..., V] -> [...]. The deviation is the population's, in nats: top-n-sigma's (Tang et al.,
    arXiv 2411.07641).
    """
    x = as_float64(logits)
    seen = x > -np.inf
    count = seen.sum(-1)
    mean = np.where(seen, x, 0.0).sum(-1) / count
    squares = np.square(np.where(seen, x - mean[..., None], 0.0)).sum(-1)
    return ReferenceSpread(count.astype(np.float64)[()], np.sqrt(squares / count)[()])


def temperature_reference(logits: ArrayLike, entropy: float, low: float, high: float) -> float:
    """Computes the temperature at which softmax(logits / T) has an entropy, in bits; logits [V].

    The entropy rises with the temperature, so the root is found by bisection; where it lies outside
    [low, high] the nearer limit is returned. The tempered softmax is that of ``temp_tune`` in Entropix.
    """
    x = as_float64(logits)
    if logits_entropy(x, low) >= entropy:
        return low
    if logits_entropy(x, high) <= entropy:
        return high
    below, above = np.log(low), np.log(high)
    for _ in range(200):
        middle = (below + above) / 2
        if logits_entropy(x, float(np.exp(middle))) < entropy:
            below = middle
        else:
            above = middle
    return float(np.exp((below + above) / 2))


def prefix_depth_reference(logits: ArrayLike, share: float) -> float:
    """Computes how far the last token of top-H's prefix lies below the most probable token, nats; logits [V].

    The prefix is the longest run of tokens by falling probability whose renormalised entropy is at most
    ``share`` of the whole distribution's (Potraghloo et al., arXiv 2509.02510); it holds at least one token.
    """
    ordered = np.sort(as_float64(logits))[::-1]
    ordered = ordered[ordered > -np.inf]
    limit, last = share * logits_entropy(ordered) * (1.0 + PREFIX_TOLERANCE), 0
    while last + 1 < len(ordered) and logits_entropy(ordered[: last + 2]) <= limit:
        last += 1
    return float(ordered[0] - ordered[last])
