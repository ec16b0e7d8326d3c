"""Collects stored results into the figures of every arm: right or wrong, tokens, open text, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .arms import Arm, Arms, RuleArm
from .checkers import Check
from .comparison import Scored
from .features import answer_features
from .open_text import OpenReply
from .rules import Voter
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


CodeOf = Callable[[Arm], str | None]
"""the digest of code that an arm's results must have; None is any"""


def collect(items: Sequence[Item], arms: Arms, store: Store, code_of: CodeOf) -> Collected:
    """Returns the figures of all arms on some items, as far as results are stored.

    A reply is graded anew, so a corrected check counts at once. A request arm's figures on an item are the
    means over its replies.
    """
    checked = [item for item in items if item.check is not None]
    replies = {
        name: _replies(arm, arms.samples(name), items, store, code_of(arm))
        for name, arm in arms.requests.items()
    }
    scored: dict[str, dict[str, Scored]] = {}
    answers: dict[str, list[Answer]] = {}
    opened: dict[str, dict[str, OpenReply]] = {}
    for name, found in replies.items():
        firsts = [found[item.id][0] for item in checked if found[item.id]]
        answers[name] = [
            Answer(one.item.id, one.item.family, one.right, one.voter.features) for one in firsts
        ]
        if name not in arms.hidden:
            scored[name] = {one.item.id: _mean_of(found[one.item.id]) for one in firsts}
            opened[name] = {
                item.id: _open_reply(found[item.id][0].result)
                for item in items
                if item.check is None and found[item.id]
            }
    for name, rule_arm in arms.rules.items():
        scored[name] = _by_rule(rule_arm, checked, replies)
    families = {item.id: item.family for item in checked}
    return Collected(families, scored, opened, answers)


@dataclass(frozen=True)
class _Reply:
    """A stored reply to an item with a check, graded and extracted when first asked, once for all rules."""

    item: Item
    result: Result

    @cached_property
    def right(self) -> bool:
        return self.item.check is not None and self.item.check.grade(self.result.text)

    @cached_property
    def voter(self) -> Voter:
        if self.item.check is None:
            raise ValueError(f"{self.item.id}: an open prompt has no answer to vote on")
        return to_voter(self.item.check, self.result)


def _replies(
    arm: Arm, count: int, items: Sequence[Item], store: Store, code: str | None
) -> dict[str, list[_Reply]]:
    """Returns the replies to each item, in the order of the samples, up to the first that is missing."""
    found: dict[str, list[_Reply]] = {}
    for item in items:
        found[item.id] = []
        for sample in range(count):
            result = store.get(arm, item, sample, code)
            if result is None:
                break
            found[item.id].append(_Reply(item, result))
    return found


def _mean_of(replies: Sequence[_Reply]) -> Scored:
    return Scored(
        correct=float(np.mean([one.right for one in replies])),
        spent=float(np.mean([one.result.spent for one in replies])),
        tokens=float(np.mean([one.result.tokens for one in replies])),
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
    arm: RuleArm, items: Sequence[Item], replies: Mapping[str, Mapping[str, Sequence[_Reply]]]
) -> dict[str, Scored]:
    """Returns a rule's result on every item for which there are the replies that it looks at."""
    found = {}
    for item in items:
        first = [] if arm.first is None else list(replies[arm.first][item.id][:1])
        own = [*first, *replies[arm.of][item.id]][: arm.rule.k]
        if not own or (arm.first is not None and not first):
            continue
        winner, seen = arm.rule.pick([one.voter for one in own])
        if len(own) < arm.rule.k and seen == len(own):
            continue  # it might have looked at a reply that is missing
        found[item.id] = Scored(
            correct=float(own[winner].right),
            spent=float(sum(one.result.spent for one in own[:seen])),
            tokens=float(own[winner].result.tokens),
        )
    return found
