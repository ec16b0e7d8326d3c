"""Fits the mixes of ``error_probability`` on stored replies, judges them and picks the mixes that hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from entropick_sampler.error_probability import VOTE_FEATURES, ErrorModel, Mix
from entropick_server.consensus.config import ConsensusConfig, StopConfig

from .arms import PRESETS, Arm
from .bootstrap import Floats
from .error_data import ATTENTION, Example, examples, voted_examples
from .error_judge import (
    Estimate,
    Judged,
    Predict,
    by_mix,
    by_score,
    difference,
    fit_mix,
    judge,
    on_families_left_out,
    on_known_families,
)
from .store import Store
from .tasks import Item, short_digest

RESAMPLES: Final = 500
HOLDS: Final = 2 / 3
"""the mean AUROC within families, each left out of the fit, that a mix must reach on the fit half to be
shipped: of a right and a wrong reply of an unseen family it tells two times in three which is wrong. Its
Brier score there must also be below that of the base rate."""
VOTED: Final = (3, 5)
"""the numbers of replies of the votes whose winners the vote's mix is fitted on, each on its items"""
REPLY: Final = (
    "mean_logprob",
    "lowest_group",
    "lowest_excess",
    "first_entropy",
    "log_tokens",
    "cut",
)
"""The features of the mix ``reply``."""
ANSWER: Final = (
    "no_answer",
    "answer_number",
    "answer_sum",
    "answer_log_tokens",
    "answer_begin",
    "answer_rest",
    "log_tokens",
    "lowest_group",
    "lowest_excess",
)
"""The features of the mix ``answer``: on smollm2's fit half none of the other features, and no attention
signal, lowered the log loss on families left out by 0.0005 more."""
MIXED: Final[Mapping[str, tuple[str, ...]]] = {"reply and answer": ANSWER, "whole reply": REPLY}
VOTE: Final = (*ANSWER, *VOTE_FEATURES)
"""The features of the mix ``vote``."""
SCORES: Final[tuple[tuple[str, bool, str], ...]] = (
    ("mean_logprob", False, "perplexity"),
    ("sum_logprob", False, "log probability of the reply"),
    ("lowest_group", False, "lowest group of log probability"),
    ("mean_entropy", True, "mean entropy"),
    ("max_entropy", True, "largest entropy"),
    ("first_entropy", True, "entropy of the first token"),
    ("mean_excess", False, "mean excess"),
    ("lowest_excess", False, "lowest excess"),
    ("log_tokens", True, "length"),
    ("answer_sum", False, "log probability of the answer"),
    ("answer_mean", False, "mean log probability of the answer"),
    ("rauq", True, "RAUQ"),
    ("agreement_2", False, "agreement with 2 samples"),
    ("agreement_4", False, "agreement with 4 samples"),
    *((name, True, name.removeprefix("mean_").replace("_", " ") + ", mean") for name in ATTENTION),
)
"""The single scores that the mixes are compared with: feature, whether more of it is more doubt, name."""
GREEDY: Final = Arm("greedy", PRESETS["greedy"])
"""the arm whose replies are predicted"""
SAMPLING: Final = Arm("min_p_02", PRESETS["min_p_02"])
"""the arm whose replies are the others of a vote, and stand beside them where :data:`LINES` has none"""
LINES: Final = Arm("min_p_02_line", PRESETS["min_p_02_line"])
"""the arm whose replies stand beside them: an answer stands in the first line, more samples need no more"""


@dataclass(frozen=True, slots=True)
class Line:
    """A predictor of wrong answers with its figures; None where there was too little to judge it by."""

    name: str
    known: Judged | None
    """fitted on other contents of the same families"""
    left_out: Judged | None
    """fitted on the other families"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of the mean AUROC within families between two predictors, with its interval."""

    name: str
    known: Estimate
    left_out: Estimate


@dataclass(frozen=True, slots=True)
class Findings:
    """The fit of a model's error probability and its judgement."""

    fit: int
    """replies of the fit half"""
    judged: int
    on_test: bool
    """whether the judged replies are the test half's; else the fit half's, each left out of its fit"""
    wrong: float
    """share of wrong replies among the judged"""
    mixes: tuple[Line, ...]
    scores: tuple[Line, ...]
    attention: tuple[Difference, ...]
    transfer: tuple[Line, ...]
    """the shipped mixes on replies of other arms"""
    model: ErrorModel | None
    """what holds, for the profile"""
    dropped: tuple[str, ...]
    """mixes that did not hold on families left out of the fit half"""


class _Judge:
    """The examples of one arm, fitted and judged."""

    def __init__(self, fit: Sequence[Example], test: Sequence[Example], resamples: int) -> None:
        self.fit = fit
        self.test = test if _two_sided(test) else None
        self.resamples = resamples

    def known(self, predict: Predict) -> tuple[list[Example], Floats]:
        return on_known_families(predict, self.fit, self.test)

    def left_out(self, predict: Predict) -> tuple[list[Example], Floats]:
        return on_families_left_out(predict, self.fit, self.fit if self.test is None else self.test)

    def line(self, name: str, predict: Predict, *, probabilities: bool = True) -> Line:
        pairs = (self.known(predict), self.left_out(predict))
        known, left = (judge(*pair, self.resamples, probabilities=probabilities) for pair in pairs)
        return Line(name, known, left)

    def gain(self, name: str, first: Predict, second: Predict) -> Difference:
        known, left = (
            difference(how(first)[0], how(first)[1], how(second)[1], self.resamples)
            for how in (self.known, self.left_out)
        )
        return Difference(name, known, left)


def _two_sided(found: Sequence[Example]) -> bool:
    return len({one.wrong for one in found}) == 2


def _known(found: Sequence[Example], names: Sequence[str]) -> list[Example]:
    return [one for one in found if all(name in one.features for name in names)]


def find(items: Sequence[Item], store: Store, resamples: int = RESAMPLES) -> Findings | None:
    """Returns the fit on the stored replies to some items; None where the fit half tells nothing.

    ``store`` must have loaded the arms :data:`GREEDY`, :data:`SAMPLING` and :data:`LINES`.
    """
    greedy = examples(items, store, GREEDY, LINES if store.results(LINES) else SAMPLING)
    fit = [one for one in greedy if one.split == "fit"]
    if not _two_sided(fit):
        return None
    own = _Judge(fit, [one for one in greedy if one.split == "test"], resamples)
    mixes = [own.line("whole reply", by_mix(REPLY)), own.line("reply and answer", by_mix(ANSWER))]
    votes = []
    for place, k in enumerate(VOTED):
        # each item is in one vote, so that no example counts twice
        own_items = [item for item in items if int(short_digest(item.id), 16) % len(VOTED) == place]
        votes += voted_examples(own_items, store, GREEDY, SAMPLING, _consensus(k))
    for k in (2, 4):
        names = (*ANSWER, f"agreement_{k}")
        some = _Judge(_known(fit, names), _known(own.test or (), names), resamples)
        if _two_sided(some.fit):
            mixes.append(some.line(f"reply, answer and {k} samples", by_mix(names)))
    voted = _Judge(*_halves(votes), resamples)
    if _two_sided(voted.fit):
        mixes.append(voted.line(f"winner of a vote of {' or '.join(map(str, VOTED))}", by_mix(VOTE)))
    scores = [line for score in SCORES for line in _score(own, *score)]
    attention: list[Difference] = []
    if len(measured := _known(fit, ATTENTION)) >= len(fit) / 2:
        both = _Judge(measured, _known(own.test or (), ATTENTION), resamples)
        where = " (fit half)" if own.test is not None and both.test is None else ""
        mixes.append(both.line(f"attention signals alone{where}", by_mix(ATTENTION)))
        mixes.append(both.line(f"reply, answer and attention{where}", by_mix((*ANSWER, *ATTENTION))))
        attention = [
            both.gain(title, by_mix((*own_names, *ATTENTION)), by_mix(own_names))
            for title, own_names in MIXED.items()
        ]
    model, dropped = _shipped(fit, voted.fit, items)
    judged = own.fit if own.test is None else own.test
    return Findings(
        fit=len(fit),
        judged=len(judged),
        on_test=own.test is not None,
        wrong=float(np.mean([one.wrong for one in judged])),
        mixes=tuple(mixes),
        scores=tuple(scores),
        attention=tuple(attention),
        transfer=tuple(_transfer(items, store, model, own.test is not None, resamples)),
        model=model,
        dropped=dropped,
    )


def _score(own: _Judge, name: str, doubt: bool, title: str) -> Iterator[Line]:
    """Yields the line of a single score: on the test half, else on the fit half's replies that have it."""
    predict = by_score(name, doubt=doubt, absent=np.inf if doubt else -np.inf)
    if own.test is None or _known(own.test, [name]):
        if _known(own.fit, [name]):
            yield own.line(title, predict, probabilities=False)
    elif _two_sided(some := _known(own.fit, [name])):
        yield _Judge(some, (), own.resamples).line(f"{title} (fit half)", predict, probabilities=False)


def _consensus(k: int) -> ConsensusConfig:
    """Returns the server's vote of ``k`` replies, of which none is left undrawn."""
    return ConsensusConfig(extract="text", k=k, stop=StopConfig("all"))


def _halves(found: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    return [one for one in found if one.split == "fit"], [one for one in found if one.split == "test"]


def _shipped(
    fit: Sequence[Example], voted: Sequence[Example], items: Sequence[Item]
) -> tuple[ErrorModel | None, tuple[str, ...]]:
    """Returns the coefficients that hold on families left out of the fit half, and the others' names."""
    kept: dict[str, Mix] = {}
    dropped = []
    for name, names, own in (("reply", REPLY, fit), ("answer", ANSWER, fit), ("vote", VOTE, voted)):
        if not _two_sided(own):
            continue
        found = judge(*on_families_left_out(by_mix(names), own, own), resamples=1)
        if found is not None and found.within[0] >= HOLDS and found.brier < found.base:
            kept[name] = fit_mix(own, names)
        else:
            dropped.append(name)
    if not kept:
        return None, tuple(dropped)
    digests = {item.id: item.digest for item in items}
    data = [[one.item, digests[one.item], one.wrong, one.tokens] for one in (*fit, *voted)]
    longest = max(one.tokens for one in fit)
    return ErrorModel(short_digest(sorted(data)), len(fit), longest, **kept), tuple(dropped)


def _transfer(
    items: Sequence[Item], store: Store, model: ErrorModel | None, on_test: bool, resamples: int
) -> list[Line]:
    """Returns how the shipped mixes judge sampled replies, which no fit of theirs saw."""
    found = [one for one in examples(items, store, SAMPLING) if not on_test or one.split == "test"]
    lines = []
    mixes = {} if model is None else {"whole reply": model.reply, "reply and answer": model.answer}
    for name, mix in mixes.items():
        if mix is not None and _two_sided(found):
            told = [mix.probability(one.features) for one in found]
            p = np.array([np.nan if one is None else one for one in told])
            lines.append(Line(f"{name}, on `{SAMPLING.name}`", judge(found, p, resamples), None))
    return lines
