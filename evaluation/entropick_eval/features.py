"""Features of a reply, computed from the surprisal and the entropy of its tokens (bits)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from entropick_server.consensus.weights import Figures, answer_tokens

from .replies import OFFSET

_LN2: Final = math.log(2.0)
GROUP: Final = 4
"""tokens of a group, in ``lowest_group`` and ``lowest_excess_group``"""


def features(signals: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Returns the features of a reply; a feature whose signals were not measured is absent.

    Every feature is larger for a more certain reply, except those whose name says entropy:

    - ``mean_logprob``, ``sum_logprob``, ``lowest_logprob``: minus the surprisal, in bits
    - ``lowest_group``: its smallest mean over :data:`GROUP` consecutive tokens (all, where there are fewer)
    - ``slope``: of the log probability over the reply, by least squares, in bits from its begin to its end
    - ``mean_entropy``, ``max_entropy``, ``first_entropy``, ``late_entropy`` (the median of the last half)
    - ``mean_excess``, ``lowest_excess``, ``lowest_excess_group``: of entropy minus surprisal
    """
    found: dict[str, float] = {}
    surprisal, entropy = signals.get("surprisal", ()), signals.get("logits_entropy", ())
    logprobs = [-one for one in surprisal if one is not None]
    if logprobs:
        found["mean_logprob"] = math.fsum(logprobs) / len(logprobs)
        found["sum_logprob"] = math.fsum(logprobs)
        found["lowest_logprob"] = min(logprobs)
        found["lowest_group"] = lowest_group(logprobs)
        found["slope"] = slope(logprobs)
    entropies = [one for one in entropy if one is not None]
    if entropies:
        found["mean_entropy"] = math.fsum(entropies) / len(entropies)
        found["max_entropy"] = max(entropies)
        found["first_entropy"] = entropies[0]
        found["late_entropy"] = statistics.median(entropies[len(entropies) // 2 :])
    excess = [h - s for s, h in zip(surprisal, entropy, strict=False) if s is not None and h is not None]
    if excess:
        found["mean_excess"] = math.fsum(excess) / len(excess)
        found["lowest_excess"] = min(excess)
        found["lowest_excess_group"] = lowest_group(excess)
    return found


def answer_features(
    signals: Mapping[str, Sequence[float | None]], begin: int, end: int, length: int
) -> dict[str, float]:
    """Returns the features of the tokens that touch an answer, characters ``begin`` to ``end`` of a text.

    ``answer_sum`` and ``answer_mean``: their log probability in bits; ``answer_prefix_mean``: the mean of all
    tokens up to the answer's end. ``length``: characters of the text. Empty where nothing was measured.
    """
    surprisal, offsets = signals.get("surprisal", ()), signals.get(OFFSET, ())
    if not surprisal or None in surprisal or len(offsets) != len(surprisal):
        return {}
    tokens = [
        Figures(-(s or 0.0) * _LN2, None, int(at or 0)) for s, at in zip(surprisal, offsets, strict=True)
    ]
    own = [token.logprob / _LN2 for token in answer_tokens(tokens, begin, end, length)]
    before = [token.logprob / _LN2 for token in tokens if token.offset < end]
    if not own or not before:
        return {}
    return {
        "answer_sum": math.fsum(own),
        "answer_mean": math.fsum(own) / len(own),
        "answer_prefix_mean": math.fsum(before) / len(before),
    }


def lowest_group(values: Sequence[float], size: int = GROUP) -> float:
    """Returns the smallest mean of ``size`` consecutive values; of all values where there are fewer."""
    width = min(size, len(values))
    return min(math.fsum(values[at : at + width]) / width for at in range(len(values) - width + 1))


def slope(values: Sequence[float]) -> float:
    """Returns the slope of the least-squares line through values at equal distances over [0, 1], else 0."""
    n = len(values)
    if n < 2:
        return 0.0
    middle = (n - 1) / 2
    mean = math.fsum(values) / n
    over = math.fsum((at - middle) * (value - mean) for at, value in enumerate(values))
    return over / math.fsum((at - middle) ** 2 for at in range(n)) * (n - 1)
