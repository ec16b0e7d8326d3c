"""The probability that a reply is wrong: a logistic mix of its figures, with coefficients of a model. Pure.

A reply's figures are sums that grow by a token at a time (:class:`RunningFigures`) and, where it is known
which of its characters are the answer, those of the answer's tokens (:func:`answer_figures`). The
coefficients are fitted on replies that were checked (``entropick_eval.error_probability``) and stand in the
model's profile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

GROUP: Final = 4
"""consecutive tokens whose mean log probability is a figure"""
REPLY_FEATURES: Final = (
    "mean_logprob",
    "sum_logprob",
    "lowest_logprob",
    "lowest_group",
    "first_logprob",
    "mean_entropy",
    "max_entropy",
    "first_entropy",
    "mean_excess",
    "lowest_excess",
    "log_tokens",
    "cut",
)
"""The features of a whole reply, in bits; ``log_tokens``: log2 of the tokens; ``cut``: 1 where max_tokens
ended the reply, else 0."""
ANSWER_FEATURES: Final = (
    "no_answer",
    "answer_number",
    "answer_mean",
    "answer_sum",
    "answer_lowest",
    "answer_max_entropy",
    "answer_first_entropy",
    "answer_excess",
    "answer_log_tokens",
    "answer_begin",
    "answer_rest",
)
"""The features of the tokens that touch the answer, in bits; ``no_answer``: 1 where the reply holds none, and
all the others are 0 then; ``answer_number``: 1 where the answer is a number, else 0; ``answer_begin`` and
``answer_rest``: log2 of 1 + the tokens before the answer, and behind it."""
VOTE_FEATURES: Final = ("agreement", "others")
"""The features of a reply that won a vote; ``agreement``: the share of the other replies with its answer;
``others``: log2 of how many other replies there are."""
FEATURES: Final = (*REPLY_FEATURES, *ANSWER_FEATURES, *VOTE_FEATURES)


class RunningFigures:
    """The figures of a reply while it grows: sums, extremes and the newest tokens, nothing for each token."""

    __slots__ = (
        "_excess",
        "_first",
        "_high_entropy",
        "_low_excess",
        "_low_group",
        "_low_logprob",
        "_recent",
        "_sum_entropy",
        "_sum_logprob",
        "tokens",
    )

    def __init__(self) -> None:
        self.tokens = 0
        """drawn tokens whose figures are known"""
        self._sum_logprob = self._sum_entropy = self._excess = 0.0
        self._low_logprob = self._low_excess = self._low_group = math.inf
        self._high_entropy = -math.inf
        self._first = (0.0, 0.0)
        self._recent: deque[float] = deque()

    def add(self, surprisal: float | None, entropy: float | None) -> None:
        """Takes the figures of the next token that was drawn, in bits.

        A token of which either is not known counts nothing: an engine may lose a token's figures.
        """
        if surprisal is None or entropy is None or not math.isfinite(surprisal + entropy):
            return
        logprob, excess = -surprisal, entropy - surprisal
        if not self.tokens:
            self._first = (logprob, entropy)
        self.tokens += 1
        self._sum_logprob += logprob
        self._sum_entropy += entropy
        self._excess += excess
        self._low_logprob = min(self._low_logprob, logprob)
        self._low_excess = min(self._low_excess, excess)
        self._high_entropy = max(self._high_entropy, entropy)
        self._recent.append(logprob)
        if len(self._recent) > GROUP:
            self._recent.popleft()
        if len(self._recent) == GROUP:
            self._low_group = min(self._low_group, math.fsum(self._recent) / GROUP)

    def features(self, cut: bool) -> dict[str, float] | None:
        """Returns :data:`REPLY_FEATURES`; ``cut``: whether max_tokens ended the reply.

        None where no token's figures are known.
        """
        n = self.tokens
        if not n:
            return None
        # a reply of fewer tokens is one group
        group = self._low_group if n >= GROUP else self._sum_logprob / n
        return {
            "mean_logprob": self._sum_logprob / n,
            "sum_logprob": self._sum_logprob,
            "lowest_logprob": self._low_logprob,
            "lowest_group": group,
            "first_logprob": self._first[0],
            "mean_entropy": self._sum_entropy / n,
            "max_entropy": self._high_entropy,
            "first_entropy": self._first[1],
            "mean_excess": self._excess / n,
            "lowest_excess": self._low_excess,
            "log_tokens": math.log2(n),
            "cut": float(cut),
        }


def no_answer() -> dict[str, float]:
    """Returns :data:`ANSWER_FEATURES` of a reply that holds no answer."""
    return {name: float(name == "no_answer") for name in ANSWER_FEATURES}


def answer_figures(
    tokens: Iterable[tuple[float, float]], before: int, behind: int, number: bool
) -> dict[str, float] | None:
    """Returns :data:`ANSWER_FEATURES` of the tokens of an answer, given as (surprisal, entropy) in bits.

    ``before``, ``behind``: tokens of the reply before the answer and behind it; ``number``: whether the
    answer is a number. None where there is no such token.
    """
    figures = list(tokens)
    if not figures:
        return None
    logprobs = [-surprisal for surprisal, _ in figures]
    entropies = [entropy for _, entropy in figures]
    return {
        "no_answer": 0.0,
        "answer_number": float(number),
        "answer_mean": math.fsum(logprobs) / len(logprobs),
        "answer_sum": math.fsum(logprobs),
        "answer_lowest": min(logprobs),
        "answer_max_entropy": max(entropies),
        "answer_first_entropy": entropies[0],
        "answer_excess": min(h + lp for lp, h in zip(logprobs, entropies, strict=True)),
        "answer_log_tokens": math.log2(len(figures)),
        "answer_begin": math.log2(1 + before),
        "answer_rest": math.log2(1 + behind),
    }


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of a feature, with the range of the feature's values in the fit."""

    weight: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mix:
    """A logistic mix of features: probability = 1 / (1 + e^-(bias + sum of weight x feature)).

    A feature counts at most as its largest value in the fit and at least as its smallest: beyond them nothing
    is known.
    """

    bias: float
    weights: Mapping[str, Weight]

    def probability(self, features: Mapping[str, float]) -> float | None:
        """Returns the probability of an error; None where a feature that has a weight is missing."""
        logit = self.bias
        for name, one in self.weights.items():
            if name not in features:
                return None
            logit += one.weight * min(max(features[name], one.low), one.high)
        return sigmoid(logit)


def sigmoid(logit: float) -> float:
    """Returns 1 / (1 + e^-logit) without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))


MIXES: Final = ("reply", "answer", "vote")
"""The mixes of an error model, from the least that must be known of a reply to the most."""


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """The coefficients of a model's error probability, and the replies that they were fitted on.

    ``reply``: of any reply; ``answer``: where it is known which characters are the answer; ``vote``: of a
    reply that won a vote of several. A mix that did not hold is None. ``longest``: tokens of the longest
    reply of the fit: of a longer one nothing is said.
    """

    data_hash: str
    replies: int
    longest: int
    reply: Mix | None = None
    answer: Mix | None = None
    vote: Mix | None = None

    def probability(self, features: Mapping[str, float], length: int) -> float | None:
        """Returns the probability that a reply of ``length`` tokens is wrong, by the best mix that fits it.

        ``features``: all that is known of the reply. None where no mix of this model has all its features,
        and for a reply longer than the fit's. What names an answer is never judged by ``reply``: that mix
        does not know whether there is one.
        """
        if length > self.longest:
            return None
        if "agreement" in features and self.vote is not None:
            return self.vote.probability(features)
        if "no_answer" in features:
            return None if self.answer is None else self.answer.probability(features)
        return None if self.reply is None else self.reply.probability(features)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a profile's table holds them; a mix that is None is absent."""
        mixes = {name: getattr(self, name) for name in MIXES}
        return {
            "data_hash": self.data_hash,
            "replies": self.replies,
            "longest": self.longest,
            **{name: _mix_table(mix) for name, mix in mixes.items() if mix is not None},
        }

    @classmethod
    def of_dict(cls, table: Mapping[str, Any]) -> ErrorModel:
        """Returns the model in a profile's table.

        Raises KeyError, TypeError or ValueError for an entry that is missing or malformed.
        """
        for name in table:
            if name not in ("data_hash", "replies", "longest", *MIXES):
                raise ValueError(f"error.{name} is not known")
        longest, replies = int(table["longest"]), int(table["replies"])
        if longest < 1 or replies < 1:
            raise ValueError("error.longest and error.replies must be at least 1")
        mixes = {name: _mix(name, table[name]) for name in MIXES if name in table}
        return cls(str(table["data_hash"]), replies, longest, **mixes)


def _mix_table(mix: Mix) -> dict[str, Any]:
    rows = {name: [one.weight, one.low, one.high] for name, one in mix.weights.items()}
    return {"bias": mix.bias, "features": rows}


def _mix(name: str, table: Mapping[str, Any]) -> Mix:
    weights = {}
    for feature, row in table["features"].items():
        if feature not in FEATURES:
            raise ValueError(f"error.{name}.features.{feature} is not known")
        numbers = [float(value) for value in row]
        if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or numbers[1] > numbers[2]:
            raise ValueError(
                f"error.{name}.features.{feature} must be a weight, a lowest and a highest value"
            )
        weights[feature] = Weight(*numbers)
    bias = float(table["bias"])
    if not math.isfinite(bias):
        raise ValueError(f"error.{name}.bias must be a finite number")
    return Mix(bias, weights)
