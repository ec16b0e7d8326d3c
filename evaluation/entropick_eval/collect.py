"""Collects stored results into the figures of every arm: right or wrong, tokens, open text, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .arms import Arm, Arms, RuleArm
from .checkers import Check
from .comparison import Scored
from .features import answer_features
from .open_text import OpenReply
from .rules import Voter
from .runner import Runner
from .store import Result, Store
from .tasks import Item


class Answer(NamedTuple):
    """A checked reply with its features, for scores that predict errors."""

    item: str
    family: str
    right: bool
    features: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Collected:
    """The results of the items of one split."""

    families: Mapping[str, str]
    """item -> family, of the items with a check"""
    scored: Mapping[str, Mapping[str, Scored]]
    """arm -> item -> result"""
    open: Mapping[str, Mapping[str, OpenReply]]
    """arm -> open prompt -> reply"""
    answers: Mapping[str, Sequence[Answer]]
    """request arm -> its first replies"""


def collect(items: Sequence[Item], arms: Arms, store: Store, runner: Runner) -> Collected:
    """Returns the figures of all arms on some items, as far as results are stored.

    A reply is graded anew, so a corrected check counts at once. A request arm's figures on an item are the
    means over its replies.
    """
    checked = [item for item in items if item.check is not None]
    replies = {
        name: _replies(arm, arms.samples(name), items, store, runner.code_of(arm))
        for name, arm in arms.requests.items()
    }
    scored: dict[str, dict[str, Scored]] = {}
    answers: dict[str, list[Answer]] = {}
    opened: dict[str, dict[str, OpenReply]] = {}
    for name, found in replies.items():
        own = {item.id: _mean_of(item, found[item.id]) for item in checked if found[item.id]}
        answers[name] = [
            Answer(item.id, item.family, _right(item, found[item.id][0]), _features(item, found[item.id][0]))
            for item in checked
            if found[item.id]
        ]
        if name not in arms.hidden:
            scored[name] = own
            opened[name] = {
                item.id: _open_reply(found[item.id][0])
                for item in items
                if item.check is None and found[item.id]
            }
    for name, rule_arm in arms.rules.items():
        scored[name] = _by_rule(rule_arm, checked, replies)
    families = {item.id: item.family for item in checked}
    return Collected(families, scored, opened, answers)


def _replies(
    arm: Arm, count: int, items: Sequence[Item], store: Store, code: str | None
) -> dict[str, list[Result]]:
    """Returns the replies to each item, in the order of the samples, up to the first that is missing."""
    found: dict[str, list[Result]] = {}
    for item in items:
        found[item.id] = []
        for sample in range(count):
            result = store.get(arm, item, sample, code)
            if result is None:
                break
            found[item.id].append(result)
    return found


def _right(item: Item, result: Result) -> bool:
    return item.check is not None and item.check.grade(result.text)


def _features(item: Item, result: Result) -> Mapping[str, float]:
    """Returns the features of a reply, those of its answer's tokens taken anew."""
    return result.features if item.check is None else to_voter(item.check, result).features


def _mean_of(item: Item, results: Sequence[Result]) -> Scored:
    return Scored(
        correct=float(np.mean([_right(item, one) for one in results])),
        spent=float(np.mean([one.spent for one in results])),
        tokens=float(np.mean([one.tokens for one in results])),
    )


def _open_reply(result: Result) -> OpenReply:
    mean = result.features.get("mean_logprob")
    return OpenReply(result.text, result.tokens, None if mean is None else -mean)


def to_voter(check: Check, result: Result) -> Voter:
    """Returns a stored reply as a rule sees it, its answer taken anew."""
    found = check.find(result.text)
    features = dict(result.features)
    if found is not None:
        features |= answer_features(result.signals, found.begin, found.end, len(result.text))
    return Voter(result.text, found, features, result.signals, result.finish == "length")


def _by_rule(
    arm: RuleArm, items: Sequence[Item], replies: Mapping[str, Mapping[str, Sequence[Result]]]
) -> dict[str, Scored]:
    """Returns a rule's result on every item for which there are the replies that it looks at."""
    found = {}
    for item in items:
        first = [] if arm.first is None else list(replies[arm.first][item.id][:1])
        results = [*first, *replies[arm.of][item.id]][: arm.rule.k]
        if not results or (arm.first is not None and not first) or item.check is None:
            continue
        winner, seen = arm.rule.pick([to_voter(item.check, one) for one in results])
        if len(results) < arm.rule.k and seen == len(results):
            continue  # it might have looked at a reply that is missing
        found[item.id] = Scored(
            correct=float(_right(item, results[winner])),
            spent=float(sum(one.spent for one in results[:seen])),
            tokens=float(results[winner].tokens),
        )
    return found
