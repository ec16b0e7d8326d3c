"""Rules that pick an answer among several replies to one prompt: votes, the best by a score, consensus.

Pure functions of the replies in the order of their numbers, so many rules are tried on replies that were
sampled once. A consensus rule is decided by the server's own functions, so its arm says what
``entropick.consensus`` with the same fields does, up to the seeds of the replies and the rounding of stored
figures. The vote is self-consistency (arXiv 2203.11171), its weights are CISC's (2502.06233).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from entropick_server.answers import Extracted
from entropick_server.consensus.config import ConsensusConfig, consensus_config
from entropick_server.consensus.rules import judge, stop_reason
from entropick_server.consensus.weights import Figures, Vote, vote

from .replies import OFFSET

Choose = Literal["vote", "best"]
WEIGHTS: Final[Mapping[str, float]] = {
    "none": 0.0,
    "mean_logprob": 3.0,
    "sum_logprob": 1.0,
    "lowest_excess": 0.5,
    "lowest_group": 1.0,
    "late_entropy": -3.0,
    "mean_entropy": -3.0,
    "answer_mean": 3.0,
    "answer_sum": 1.0,
    "answer_prefix_mean": 3.0,
}
"""The features (bits) that a reply may be weighted or ranked by, each with the factor of its weight
2^(factor x feature)."""
_LN2: Final = math.log(2.0)
_FIELDS: Final = ("of", "first", "k", "choose", "weight", "scale", "answered", "cut_weight")


class RuleError(ValueError):
    """An error in a rule's description; the message begins with the field."""


@dataclass(frozen=True, slots=True)
class Voter:
    """A reply as a rule sees it."""

    text: str
    answer: Extracted | None
    """None abstains"""
    features: Mapping[str, float]
    signals: Mapping[str, Sequence[float | None]]
    cut: bool
    """whether max_tokens ended it"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over up to ``k`` replies.

    ``weight``: the feature that weighs or ranks a reply, with ``scale`` as its factor. ``answered``: look at
    no further reply behind one with an answer that was not cut. ``cut_weight``: the factor of a cut reply's
    weight.
    """

    k: int
    choose: Choose = "vote"
    weight: str = "none"
    scale: float = 0.0
    answered: bool = False
    cut_weight: float = 1.0

    def pick(self, voters: Sequence[Voter]) -> tuple[int, int]:
        """Returns the number of the reply that wins, and the number of replies that were looked at.

        Of equals the earlier wins; a reply without an answer wins only where no reply has an answer. Of the
        replies with the answer that won the vote it is the reply of the largest weight. Raises ValueError
        without a reply.
        """
        if not voters:
            raise ValueError("a rule needs a reply")
        seen = list(voters[: self.k])
        if self.answered:
            enough = (n + 1 for n, one in enumerate(seen) if one.answer is not None and not one.cut)
            seen = seen[: next(enough, len(seen))]
        weights = [self._weight(one) for one in seen]
        answered = [n for n, one in enumerate(seen) if one.answer is not None]
        if answered and self.choose == "vote":
            votes: dict[str, float] = {}
            for n in answered:
                answer = _answer(seen[n])
                votes[answer] = votes.get(answer, 0.0) + weights[n]
            best = max(votes, key=lambda one: votes[one])
            answered = [n for n in answered if _answer(seen[n]) == best]
        return max(answered or range(len(seen)), key=lambda n: weights[n]), len(seen)

    def _weight(self, voter: Voter) -> float:
        """Returns 2^(scale x feature), times ``cut_weight`` of a cut reply; 0 where it was not measured."""
        if self.weight == "none":
            weight = 1.0
        elif self.weight in voter.features:
            weight = math.exp2(min(500.0, max(-500.0, self.scale * voter.features[self.weight])))
        else:
            return 0.0
        return weight * (self.cut_weight if voter.cut else 1.0)


def _answer(voter: Voter) -> str:
    return voter.answer.answer if voter.answer is not None else ""


@dataclass(frozen=True, slots=True)
class ConsensusRule:
    """The server's consensus over replies that are there already."""

    config: ConsensusConfig

    @property
    def k(self) -> int:
        """Returns the most replies."""
        return self.config.k

    def pick(self, voters: Sequence[Voter]) -> tuple[int, int]:
        """Returns the number of the reply that wins, and the number of replies that were looked at.

        Raises ValueError without a reply. Where the rule wants a reply that is missing, the verdict is on the
        replies that are there.
        """
        if not voters:
            raise ValueError("a rule needs a reply")
        votes: list[Vote] = []
        for voter in voters:
            votes.append(self._vote(voter))
            if stop_reason(self.config.stop, votes, self.k) is not None:
                return judge(self.config.stop, votes, self.k).winner, len(votes)
        return judge(self.config.stop, votes, len(votes)).winner, len(votes)

    def _vote(self, voter: Voter) -> Vote:
        surprisal = voter.signals.get("surprisal", ())
        entropy = voter.signals.get("logits_entropy") or (None,) * len(surprisal)
        offsets = voter.signals.get(OFFSET) or (0,) * len(surprisal)
        tokens = [
            Figures(math.nan if s is None else -s * _LN2, h, int(at or 0))
            for s, h, at in zip(surprisal, entropy, offsets, strict=True)
        ]
        return vote(voter.text, tokens, not voter.cut, lambda _: voter.answer, self.config.weight)


AnyRule = Rule | ConsensusRule


def parse_rule(raw: Any) -> tuple[str, str | None, AnyRule]:
    """Returns the request arm, the arm that goes first, and the rule of a description. Raises RuleError."""
    if not isinstance(raw, Mapping):
        raise RuleError(f"must be a table of fields, not {raw!r}")
    of, first = raw.get("of"), raw.get("first")
    if not isinstance(of, str):
        raise RuleError("of: must be the name of a request arm")
    if first is not None and not isinstance(first, str):
        raise RuleError("first: must be the name of a request arm")
    if "consensus" in raw:
        return of, *_consensus(raw, first)
    for name in raw:
        if name not in _FIELDS:
            raise RuleError(f"{name}: no such field; known: {', '.join(_FIELDS)}, consensus")
    k = raw.get("k")
    if type(k) is not int or not 1 <= k <= 256:
        raise RuleError("k: must be a whole number from 1 to 256")
    choose, weight = raw.get("choose", "vote"), raw.get("weight", "none")
    if choose not in ("vote", "best"):
        raise RuleError("choose: must be vote or best")
    if weight not in WEIGHTS:
        raise RuleError(f"weight: must be one of {', '.join(WEIGHTS)}")
    if choose == "best" and weight == "none":
        raise RuleError("weight: the best reply needs a weight to be the best by")
    if not isinstance(raw.get("answered", False), bool):
        raise RuleError("answered: must be true or false")
    for name, (low, high) in (("scale", (-100, 100)), ("cut_weight", (0, 1))):
        value = raw.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low <= value <= high):
            raise RuleError(f"{name}: must be a number from {low} to {high}")
    rule = Rule(
        k=k,
        choose=cast(Choose, choose),
        weight=weight,
        scale=float(raw.get("scale", WEIGHTS[weight])),
        answered=raw.get("answered", False),
        cut_weight=float(raw.get("cut_weight", 1.0)),
    )
    return of, first, rule


def _consensus(raw: Mapping[str, Any], first: str | None) -> tuple[str | None, ConsensusRule]:
    """Returns the arm that goes first and the rule of ``consensus``, whose extractor is each item's own."""
    known = ("of", "first", "consensus")
    for name in raw:
        if name not in known:
            raise RuleError(f"{name}: no such field beside consensus; known: {', '.join(known)}")
    if not isinstance(raw["consensus"], Mapping):
        raise RuleError("consensus: must be a table of its fields")
    try:
        config = consensus_config({"extract": "text", **raw["consensus"]})
    except ValueError as error:
        raise RuleError(str(error)) from error
    if config.first == "sample":
        return first, ConsensusRule(config)
    return first or "greedy", ConsensusRule(config)
