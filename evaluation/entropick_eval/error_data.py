"""Reads stored replies as examples for ``error_probability``: the server's features, and right or wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from entropick_sampler.error_probability import RunningFigures
from entropick_sampler.signals import ATTENTION_SIGNALS
from entropick_server.consensus.config import ConsensusConfig
from entropick_server.consensus.rules import judge
from entropick_server.consensus.weights import Figures, vote
from entropick_server.error_estimate import Agreement, reply_features

from .arms import Arm
from .checkers import Check
from .replies import OFFSET
from .store import Result, Store
from .tasks import Item

_LN2: Final = math.log(2.0)
ATTENTION: Final = tuple(f"mean_{signal.name}" for signal in ATTENTION_SIGNALS)
"""The means over a reply of the attention signals, which no shipped coefficient reads."""


@dataclass(frozen=True, slots=True)
class Example:
    """A reply that was checked, with all that may tell whether it is wrong."""

    item: str
    family: str
    split: str
    wrong: bool
    tokens: int
    features: Mapping[str, float]
    """the server's (``entropick_sampler.error_probability``), and what the recipe compares them with"""

    @property
    def content(self) -> str:
        """Returns the item's subject: its id without the form of the question."""
        return self.item.rpartition("/")[0] or self.item


def figures_of(result: Result) -> tuple[RunningFigures, list[Figures]] | None:
    """Returns a stored reply's figures as the server has them; None where they were not kept.

    Stored rows do not say which tokens were forced: replies of arms that insert clarifying texts differ.
    """
    surprisal, entropy = result.signals.get("surprisal", ()), result.signals.get("logits_entropy", ())
    offsets = result.signals.get(OFFSET, ())
    if not surprisal or not len(surprisal) == len(entropy) == len(offsets):
        return None
    running = RunningFigures()
    tokens = []
    for s, h, at in zip(surprisal, entropy, offsets, strict=True):
        running.add(s, h)
        tokens.append(Figures(math.nan if s is None else -s * _LN2, h, int(at or 0)))
    return running, tokens


def features_of(
    result: Result, check: Check | None, agreement: Agreement | None = None
) -> dict[str, float] | None:
    """Returns the server's features of a stored reply; None where its figures were not kept.

    ``check`` None: where the answer stands is not known.
    """
    found = figures_of(result)
    if found is None:
        return None
    extract = None if check is None else check.find
    return reply_features(found[0], result.finish == "length", result.text, found[1], extract, agreement)


def attention_features(result: Result) -> dict[str, float]:
    """Returns the means of the attention signals that were kept, and RAUQ where it was measured."""
    found = {name: result.features[name] for name in ("rauq",) if name in result.features}
    for signal in ATTENTION_SIGNALS:
        values = [value for value in result.signals.get(signal.name, ()) if value is not None]
        if values:
            found[f"mean_{signal.name}"] = math.fsum(values) / len(values)
    return found


def examples(items: Sequence[Item], store: Store, arm: Arm, samples: Arm | None = None) -> list[Example]:
    """Returns the first reply of an arm to every item with a check, as far as it is stored with its figures.

    With ``samples`` an example also has ``agreement_2`` and ``agreement_4``, the share of the first 2 and 4
    stored replies of that arm that have its answer, where there are so many.
    """
    found = []
    for item in items:
        result = store.get(arm, item, 0, None)
        if item.check is None or result is None:
            continue
        features = features_of(result, item.check)
        if features is None:
            continue
        features |= attention_features(result)
        if samples is not None:
            features |= _agreements(item, item.check, result, store, samples)
        found.append(_example(item, item.check, result, features))
    return found


def _example(item: Item, check: Check, result: Result, features: Mapping[str, float]) -> Example:
    wrong = not check.grade(result.text)
    return Example(item.id, item.family, item.split, wrong, result.tokens, features)


def _agreements(
    item: Item, check: Check, result: Result, store: Store, arm: Arm
) -> Iterator[tuple[str, float]]:
    own = check.find(result.text)
    others = []
    for sample in range(4):
        other = store.get(arm, item, sample, None)
        if other is None:
            return
        answer = check.find(other.text)
        others.append(own is not None and answer is not None and answer.answer == own.answer)
        if sample + 1 in (2, 4):
            yield f"agreement_{sample + 1}", sum(others) / len(others)


def voted_examples(
    items: Sequence[Item], store: Store, first: Arm, of: Arm, config: ConsensusConfig
) -> list[Example]:
    """Returns the reply to every item that wins the server's vote of ``config.k`` stored replies.

    Reply 0 is the stored reply of ``first``, the others are samples of ``of``; the rule's early stop is left
    out, so that every example has ``config.k`` - 1 other replies. Items without so many replies are left out.
    """
    found = []
    for item in items:
        check = item.check
        if check is None:
            continue
        stored = [store.get(first, item, 0, None)]
        stored += [store.get(of, item, sample, None) for sample in range(config.k - 1)]
        replies = [one for one in stored if one is not None]
        figures = [one for one in map(figures_of, replies) if one is not None]
        if len(figures) < config.k:
            continue
        votes = [
            vote(one.text, tokens, one.finish != "length", check.find, config.weight)
            for one, (_, tokens) in zip(replies, figures, strict=True)
        ]
        winner = judge(config.stop, votes, config.k).winner
        features = features_of(replies[winner], check, Agreement.of(votes, winner))
        if features is not None:
            found.append(_example(item, check, replies[winner], features))
    return found
