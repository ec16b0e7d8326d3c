"""Rules that pick an answer among several replies to one prompt: votes, the best by a score, early stops.

Pure functions of the replies in the order of their numbers, so many rules are tried on replies that were
sampled once. The rules are those of self-consistency (arXiv 2203.11171), Adaptive-Consistency (2305.11860),
ESC (2401.10480) and CISC (2502.06233).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

Choose = Literal["vote", "best"]
WEIGHTS: Final[Mapping[str, float]] = {
    "none": 0.0,
    "mean_logprob": 3.0,
    "sum_logprob": 1.0,
    "lowest_excess": 0.5,
    "mean_entropy": -3.0,
    "lowest_group": 1.0,
}
"""The features (bits) that a reply may be weighted or ranked by, each with the factor of its weight
2^(factor x feature)."""


class RuleError(ValueError):
    """An error in a rule's description; the message begins with the field."""


@dataclass(frozen=True, slots=True)
class Voter:
    """A reply as a rule sees it."""

    answer: str | None
    """the extracted answer; None abstains"""
    features: Mapping[str, float]
    cut: bool
    """whether max_tokens ended it"""
    tokens: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over up to ``k`` replies.

    ``beta``: stop when the Beta rule's probability that the leading answer stays ahead exceeds it (0: off).
    ``window``: stop when a window of so many replies agrees (0: off). ``answered``: stop at the first reply
    with an answer that was not cut. ``surprisal``: stop at a first reply with an answer that was not cut and
    has at most this total surprisal (bits). ``cut_weight``: the factor of a cut reply's weight.
    """

    k: int
    choose: Choose = "vote"
    weight: str = "none"
    scale: float = 0.0
    beta: float = 0.0
    window: int = 0
    answered: bool = False
    surprisal: float | None = None
    cut_weight: float = 1.0


def parse_rule(raw: Any) -> tuple[str, str | None, Rule]:
    """Returns the request arm, the arm that goes first, and the rule of a description. Raises RuleError."""
    if not isinstance(raw, Mapping):
        raise RuleError(f"must be a table of fields, not {raw!r}")
    known = ("of", "first", "k", "choose", "weight", "scale", "stop", "cut_weight")
    for name in raw:
        if name not in known:
            raise RuleError(f"{name}: no such field; known: {', '.join(known)}")
    of, first = raw.get("of"), raw.get("first")
    if not isinstance(of, str):
        raise RuleError("of: must be the name of a request arm")
    if first is not None and not isinstance(first, str):
        raise RuleError("first: must be the name of a request arm")
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
    stop = raw.get("stop", {})
    if not isinstance(stop, Mapping):
        raise RuleError("stop: must be a table")
    limits: dict[str, tuple[float, float]] = {"beta": (0, 1), "window": (0, 256), "surprisal": (0, 1e6)}
    for name in stop:
        if name not in (*limits, "answered"):
            raise RuleError(f"stop.{name}: no such field; known: {', '.join(limits)}, answered")
    if not isinstance(stop.get("answered", False), bool):
        raise RuleError("stop.answered: must be true or false")
    numbers = {f"stop.{name}": (stop.get(name), limits[name]) for name in limits}
    numbers |= {"scale": (raw.get("scale"), (-100, 100)), "cut_weight": (raw.get("cut_weight"), (0, 1))}
    for name, (value, (low, high)) in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and low <= value <= high):
            raise RuleError(f"{name}: must be a number from {low:g} to {high:g}")
    rule = Rule(
        k=k,
        choose=cast(Choose, choose),
        weight=weight,
        scale=float(raw.get("scale", WEIGHTS[weight])),
        beta=float(stop.get("beta", 0)),
        window=int(stop.get("window", 0)),
        answered=stop.get("answered", False),
        surprisal=stop.get("surprisal"),
        cut_weight=float(raw.get("cut_weight", 1.0)),
    )
    return of, first, rule


def pick(rule: Rule, voters: Sequence[Voter]) -> tuple[int, int]:
    """Returns the number of the reply that a rule picks, and the number of replies that it looked at.

    Raises ValueError without a reply.
    """
    if not voters:
        raise ValueError("a rule needs a reply")
    seen: list[Voter] = []
    for voter in voters[: rule.k]:
        seen.append(voter)
        if _stops(rule, seen):
            break
    return _winner(rule, seen), len(seen)


def _weight(rule: Rule, voter: Voter) -> float:
    """Returns 2^(scale x feature), times ``cut_weight`` of a cut reply; 0 where the feature is not known."""
    if rule.weight == "none":
        weight = 1.0
    elif rule.weight in voter.features:
        weight = math.exp2(min(500.0, max(-500.0, rule.scale * voter.features[rule.weight])))
    else:
        return 0.0
    return weight * (rule.cut_weight if voter.cut else 1.0)


def _votes(rule: Rule, voters: Sequence[Voter]) -> dict[str, float]:
    """Returns the sum of the weights of every answer, in the order of their first replies."""
    votes: dict[str, float] = {}
    for voter in voters:
        if voter.answer is not None:
            votes[voter.answer] = votes.get(voter.answer, 0.0) + _weight(rule, voter)
    return votes


def _winner(rule: Rule, voters: Sequence[Voter]) -> int:
    """Returns the number of the winner: of equals the earlier; without any answer the best of all replies.

    Of the replies with the answer that won the vote it is the one of the largest weight.
    """
    numbers = range(len(voters))
    if rule.choose == "vote":
        votes = _votes(rule, voters)
        if votes:
            answer = max(votes, key=lambda one: votes[one])
            numbers_of = [n for n in numbers if voters[n].answer == answer]
            return max(numbers_of, key=lambda n: _weight(rule, voters[n]))
        return max(numbers, key=lambda n: _weight(rule, voters[n]))
    answered = [n for n in numbers if voters[n].answer is not None]
    return max(answered or numbers, key=lambda n: _weight(rule, voters[n]))


def _stops(rule: Rule, seen: Sequence[Voter]) -> bool:
    last = seen[-1]
    answers = last.answer is not None and not last.cut
    if rule.answered and answers:
        return True
    if rule.surprisal is not None and len(seen) == 1 and answers:
        total = last.features.get("sum_logprob")
        if total is not None and -total <= rule.surprisal:
            return True
    if rule.window and len(seen) % rule.window == 0:
        window = {voter.answer for voter in seen[-rule.window :]}
        if len(window) == 1 and None not in window:
            return True
    if rule.beta:
        counts = sorted(_votes(rule, seen).values(), reverse=True)
        lead, second = ([*counts, 0.0, 0.0])[:2]
        return lead > 0 and beta_above_half(lead + 1, second + 1) > rule.beta
    return False


def beta_above_half(a: float, b: float) -> float:
    """Returns P(X > 1/2) for X ~ Beta(a, b), a and b at least 1.

    With the continued fraction of the regularised incomplete beta function (Numerical Recipes 6.4).
    """
    if b > a:
        return 1.0 - beta_above_half(b, a)
    # P = 1 - I_{1/2}(a, b): the fraction converges fast on this side, where a >= b
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - (a + b) * math.log(2.0)
    return 1.0 - math.exp(front) * _continued_fraction(a, b) / a


def _continued_fraction(p: float, q: float) -> float:
    """Evaluates the continued fraction of I_{1/2}(p, q) by Lentz's method."""
    x, tiny = 0.5, 1e-300
    c, d = 1.0, 1.0 - (p + q) * x / (p + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    total = d
    for m in range(1, 1000):
        for numerator in (
            m * (q - m) * x / ((p + 2 * m - 1) * (p + 2 * m)),
            -(p + m) * (p + q + m) * x / ((p + 2 * m) * (p + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            c = 1.0 + numerator / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            total *= d * c
        if abs(d * c - 1.0) < 1e-15:
            return total
    return total
