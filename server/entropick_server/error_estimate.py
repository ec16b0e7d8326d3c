"""The estimate of whether a reply is wrong, from its figures and the coefficients of the model's profile."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from entropick_sampler.error_probability import (
    ErrorModel,
    RunningFigures,
    answer_figures,
    no_answer,
)

from .answers import Extractor
from .consensus.weights import Figures, Vote, answer_tokens

_LN2: Final = math.log(2.0)
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
"""an answer that is a number, in its canonical form"""


class Agreement(NamedTuple):
    """The agreement of other replies to a prompt with one of them."""

    agreeing: int
    """other replies with its answer"""
    others: int

    @classmethod
    def of(cls, votes: Sequence[Vote], winner: int) -> Agreement:
        """Counts the votes for the answer of the winner, its own left out; none agrees with no answer."""
        answer = votes[winner].answer
        others = [vote.answer for number, vote in enumerate(votes) if number != winner]
        return cls(sum(one is not None and one == answer for one in others), len(others))

    def features(self) -> dict[str, float]:
        """Returns the features of a reply that won a vote; none where there is no other reply."""
        if not self.others:
            return {}
        return {"agreement": self.agreeing / self.others, "others": math.log2(self.others)}


def answer_features(text: str, tokens: Sequence[Figures], extract: Extractor) -> dict[str, float] | None:
    """Returns the features of the tokens of a reply's answer.

    ``tokens``: all of the reply, in order. None where the reply has an answer, but no token of it was
    chosen and measured: nothing can be said then.
    """
    found = extract(text)
    if found is None:
        return no_answer()
    own = answer_tokens(tokens, found.begin, found.end, len(text))
    measured = [
        (-token.logprob / _LN2, token.entropy)
        for token in own
        if not token.forced and token.entropy is not None and not math.isnan(token.logprob)
    ]
    before = next((at for at, token in enumerate(tokens) if own and token is own[0]), 0)
    behind = len(tokens) - before - len(own)
    return answer_figures(measured, before, behind, _NUMBER.fullmatch(found.answer) is not None)


def reply_features(
    figures: RunningFigures,
    cut: bool,
    text: str,
    tokens: Sequence[Figures],
    extract: Extractor | None,
    agreement: Agreement | None = None,
) -> dict[str, float] | None:
    """Returns all that is known of a reply that has ended, by name; None where nothing was measured.

    ``figures``: of its tokens so far; ``cut``: whether max_tokens ended it; ``extract``: takes its answer,
    None where nobody said what an answer is; ``agreement``: of a reply that won a vote.
    """
    features = figures.features(cut)
    if features is None or extract is None:
        return features
    answer = answer_features(text, tokens, extract)
    if answer is None:
        return None
    return {**features, **answer, **(agreement.features() if agreement is not None else {})}


def estimate(
    model: ErrorModel,
    figures: RunningFigures,
    cut: bool,
    text: str,
    tokens: Sequence[Figures],
    extract: Extractor | None,
    agreement: Agreement | None = None,
) -> float | None:
    """Returns the probability that a reply is wrong; None where the model's coefficients do not tell.

    The arguments are those of :func:`reply_features`. A reply that is too long for the coefficients is not
    searched for its answer.
    """
    if len(tokens) > model.longest:
        return None
    features = reply_features(figures, cut, text, tokens, extract, agreement)
    return None if features is None else model.probability(features, len(tokens))
