"""Scores of a whole reply from the figures of its tokens: how sure was the model of its words? Pure.

A reply of n tokens is given by its surprisals and the entropies of the distributions that its tokens were
drawn from, in bits: the signals ``surprisal`` and ``logits_entropy`` of its rows. No score compares replies.
The scores of surprisals alone (not :func:`rauq`) have the unit of the surprisals, so nats in give nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GROUP: Final = 4
"""Tokens of a sliding group."""
RAUQ_BASE_ALPHA: Final = 0.2
"""The share of a token's own probability in RAUQ, for base models."""
RAUQ_INSTRUCT_ALPHA: Final = 0.5
"""The same for models that were tuned to follow instructions."""
_SMALLEST: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class ReplyScores:
    """The scores of one reply, in bits; ``slope`` in bits a token.

    The higher the surer: ``mean_logprob``, ``mean_excess``, ``lowest_excess``, ``lowest_group_excess``,
    ``lowest_group``. The lower the surer: ``mean_entropy``, ``largest_entropy``, ``late_entropy``. Each field
    is the result of the function of its name.
    """

    mean_logprob: float
    mean_excess: float
    lowest_excess: float
    lowest_group_excess: float
    lowest_group: float
    mean_entropy: float
    largest_entropy: float
    slope: float
    late_entropy: float

    @classmethod
    def of(cls, surprisals: Sequence[float], entropies: Sequence[float]) -> ReplyScores:
        """Returns the scores of a reply.

        Raises ValueError for no token, for lists of different lengths and for a figure that is not finite.
        """
        return cls(
            mean_logprob=mean_logprob(surprisals),
            mean_excess=mean_excess(surprisals, entropies),
            lowest_excess=lowest_excess(surprisals, entropies),
            lowest_group_excess=lowest_group_excess(surprisals, entropies),
            lowest_group=lowest_group(surprisals),
            mean_entropy=mean_entropy(entropies),
            largest_entropy=largest_entropy(entropies),
            slope=slope(surprisals),
            late_entropy=late_entropy(entropies),
        )


def _figures(values: Sequence[float]) -> Floats:
    """Returns the figures of a reply as an array [n].

    Raises ValueError where there is no figure, and for a figure that is not finite.
    """
    figures = np.asarray(values, dtype=np.float64)
    if figures.ndim != 1 or not len(figures):
        raise ValueError("a reply holds at least one token, and one figure of each kind for every token")
    if not np.isfinite(figures).all():
        raise ValueError("a figure of the reply is not finite")
    return figures


def _excesses(surprisals: Sequence[float], entropies: Sequence[float]) -> Floats:
    """Returns surprisal - entropy of each token [n]; raises ValueError as :meth:`ReplyScores.of`."""
    s, h = _figures(surprisals), _figures(entropies)
    if s.shape != h.shape:
        raise ValueError(f"{len(s)} surprisals do not fit {len(h)} entropies")
    return s - h


def _group_means(values: Floats, size: int) -> Floats:
    """Returns the mean of every run of ``size`` tokens; a shorter reply is one group."""
    if size < 1:
        raise ValueError(f"a group holds at least 1 token, got {size}")
    means: Floats = np.lib.stride_tricks.sliding_window_view(values, min(size, len(values))).mean(-1)
    return means


def mean_logprob(surprisals: Sequence[float]) -> float:
    """Returns the mean log probability of the tokens, bits; -log2 of the reply's perplexity."""
    return -float(_figures(surprisals).mean())


def mean_excess(surprisals: Sequence[float], entropies: Sequence[float]) -> float:
    """Returns minus the mean excess surprisal of the tokens, bits.

    :func:`mean_logprob` with every token measured against the average token of its own distribution: the
    mean of log2 p + H, 0 on average for a reply drawn at temperature 1.
    """
    return -float(_excesses(surprisals, entropies).mean())


def lowest_excess(surprisals: Sequence[float], entropies: Sequence[float]) -> float:
    """Returns minus the largest excess surprisal of a token, bits.

    A token's excess is its surprisal minus its entropy: 0 where the model chose freely among equals, large
    where it had to be right and was not sure. Our own score; it names the worst such token of the reply.
    """
    return -float(_excesses(surprisals, entropies).max())


def lowest_group_excess(surprisals: Sequence[float], entropies: Sequence[float], size: int = GROUP) -> float:
    """Returns minus the largest mean excess surprisal of a sliding group of tokens, bits.

    :func:`lowest_excess` with the groups of :func:`lowest_group`.
    """
    return -float(_group_means(_excesses(surprisals, entropies), size).max())


def lowest_group(surprisals: Sequence[float], size: int = GROUP) -> float:
    """Returns the lowest mean log probability of a sliding group of tokens, bits.

    Source: lowest group confidence of DeepConf (Fu et al., arXiv 2508.15260), there of the alternatives'
    probabilities, here of the tokens'.
    """
    return -float(_group_means(_figures(surprisals), size).max())


def mean_entropy(entropies: Sequence[float]) -> float:
    """Returns the mean entropy of the tokens' distributions, bits; source: Fomicheva et al., TACL 2020."""
    return float(_figures(entropies).mean())


def largest_entropy(entropies: Sequence[float]) -> float:
    """Returns the largest entropy of the tokens' distributions, bits; it marks free choices, too."""
    return float(_figures(entropies).max())


def slope(surprisals: Sequence[float]) -> float:
    """Returns the slope of the least-squares line through the log probabilities, bits a token.

    Above 0 where the model became surer along the reply; 0 for a single token. The trend, not the mean, is
    the score of arXiv 2605.25244 and 2605.07776.
    """
    logprobs = -_figures(surprisals)
    at = np.arange(len(logprobs)) - (len(logprobs) - 1) / 2
    spread = float((at * at).sum())
    return float((at * logprobs).sum()) / spread if spread else 0.0


def late_entropy(entropies: Sequence[float]) -> float:
    """Returns the median entropy of the last half of the tokens, bits; the middle token belongs to it.

    The end of a reply holds its answer; a median is not moved by a free choice or two.
    """
    figures = _figures(entropies)
    return float(np.median(figures[len(figures) // 2 :]))


def middle_third(layers: int) -> range:
    """Returns the numbers of the middle third of the layers, at least one layer; RAUQ reads no others."""
    return range(layers // 3, math.ceil(2 * layers / 3))


def rauq(
    surprisals: Sequence[float],
    attention: Sequence[Sequence[Sequence[float]]],
    alpha: float = RAUQ_INSTRUCT_ALPHA,
) -> float:
    """Returns RAUQ, the uncertainty that attention hands on from token to token, nats; the lower the surer.

    ``attention`` [n - 1][layers][heads]: of tokens 1 to n - 1, each to the token before it. In each layer of
    the middle third the head with the largest mean attention is taken; with p_i the probability of token i,
    c_0 = p_0 and c_i = alpha p_i + (1 - alpha) attention_i c_(i-1). The score is the largest, over these
    layers, of the mean of -ln c. Source: Vazhentsev et al., arXiv 2505.20045.

    A token's attention is measured when it is the newest one, so it stands in the row of the token AFTER it
    (``detail.attention_to_previous`` at telemetry ``full``): a reply's n rows give the attention of all but
    the last token. Pass the surprisals of rows 0 to n - 2 and the attention of rows 2 to n - 1.

    Raises ValueError for no token or layer, for shapes that do not fit, for a figure that is not finite and
    for an ``alpha`` outside 0 to 1.
    """
    p = np.exp2(-_figures(surprisals))
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if len(attention) != len(p) - 1:
        raise ValueError(f"{len(p)} tokens need the attention of {len(p) - 1}, got {len(attention)}")
    if len(p) == 1:
        return -math.log(max(float(p[0]), _SMALLEST))
    weights = np.asarray(attention, dtype=np.float64)
    if weights.ndim != 3 or 0 in weights.shape:
        raise ValueError(f"attention must have shape [tokens - 1, layers, heads], got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("a weight of attention is not finite")
    some = weights[:, list(middle_third(weights.shape[1]))]
    heads = some.mean(0).argmax(-1)
    chosen = np.take_along_axis(some, heads[None, :, None], axis=2)[..., 0]
    confidence = np.empty((len(p), chosen.shape[1]))
    confidence[0] = p[0]
    for i in range(1, len(p)):
        confidence[i] = alpha * p[i] + (1.0 - alpha) * chosen[i - 1] * confidence[i - 1]
    return float((-np.log(np.maximum(confidence, _SMALLEST))).mean(0).max())
