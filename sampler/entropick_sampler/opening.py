"""The opening score of a reply: the part of CLARIFY's discriminant that reads the first token's distribution.

Where a profile has opening weights, its discriminant is bias + sum of weight x signal + opening score. The
opening score is the sum over some tokens v of weight_v x log2 p(v), with p the measured distribution of the
first token of a reply. What a model is about to say first tells a request that lacks a piece from a request
that does not, where entropy and varentropy are the same. At every later token CLARIFY is out.

Knows no tensors. :func:`opening_score` is the float64 reference of :func:`.step.opening_scores`, which takes
a batch, and of the native step, which takes a row at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_LN2 = math.log(2.0)


class OpeningWeights(NamedTuple):
    """The opening weights of a profile as arrays: ``ids`` int64 [K], ascending, and ``weights`` float64 [K].

    A weight is in score per nat, because log probabilities are measured in nats.
    """

    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    @classmethod
    def of(cls, weights: Mapping[int, float]) -> OpeningWeights:
        """Returns the arrays of weights per bit by token id."""
        ids = sorted(weights)
        return cls(
            np.array(ids, dtype=np.int64),
            np.array([weights[token] / _LN2 for token in ids], dtype=np.float64),
        )


def opening_score(logprobs: npt.NDArray[np.float64], weights: Mapping[int, float]) -> float:
    """Returns the opening score of one distribution, float64.

    ``logprobs`` [V]: its log probabilities, nats; ``weights``: per bit, by token id. Returns -infinity where
    a token of a weight has no probability, because the distribution was then masked and says nothing.
    """
    total = math.fsum(float(logprobs[token]) / _LN2 * weight for token, weight in weights.items())
    return total if math.isfinite(total) else -math.inf
