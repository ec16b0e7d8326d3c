"""Collects the stored results of a model, of the other servers of it too, into the figures of both halves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from entropick_eval.arms import Arm, Arms
from entropick_eval.collect import Collected, collect
from entropick_eval.comparison import Row, at_equal_tokens, tables
from entropick_eval.rules import Rule
from entropick_eval.store import Result, Stamp, Store
from entropick_eval.summary import Half, curves, open_row
from entropick_eval.tasks import SPLITS, Split

from .compute import open_store, request_arms
from .plan import EvidencePlan, Run

T = TypeVar("T")
RESAMPLES: Final = 2_000
"""of the bootstrap: there are some six hundred intervals"""
CURVES: Final = (
    "vote of min_p_02, weight none",
    "vote of min_p_02, weight mean_logprob",
    "best of min_p_02, weight mean_logprob",
    "consensus of min_p_02, rule cascade",
)
"""the curves that arms of several looks are compared with at equal tokens"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The number of planned items, and of computed items, of an arm."""

    arm: str
    split: Split
    open: bool
    """whether this is about the open prompts of the half"""
    planned: int
    """items"""
    found: int
    by: str | None
    """the command that computes the arm; None: `make evidence`"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of the results of an arm."""

    arm: str
    replies: int
    tokens: int
    codes: tuple[str, ...]
    stamps: tuple[Stamp, ...]


@dataclass(frozen=True, slots=True)
class Seconds:
    """The times to an arm's answers."""

    n: int
    median: float
    high: float
    """within which 90 % of the answers came"""


@dataclass(frozen=True, slots=True)
class Screened:
    """The share of a family's questions of the fit half that the baseline solves."""

    n: int
    right: float
    apart: bool
    """whether the plan leaves the family out of the tables"""
    least: float
    """the share below which it should"""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that is known of a model."""

    model: str
    baseline: str
    default: str
    arms: Arms
    """of the model and of its other servers"""
    collected: Mapping[Split, Collected]
    halves: Mapping[Split, Half]
    coverage: tuple[Coverage, ...]
    provenance: tuple[Provenance, ...]
    screened: Mapping[str, Screened]
    """family -> what the baseline solves of its questions of the fit half"""
    seconds: Mapping[str, Seconds]
    """arm -> time to the answer, of arms that were computed one question at a time"""

    def rows(self, split: Split, arm: str) -> Mapping[str, Row]:
        """Returns an arm's line in each table of a half: of all items, and of every family."""
        half = self.halves.get(split)
        shown = () if half is None else half.tables
        return {table.family: row for table in shown for row in table.rows if row.arm == arm}

    def repeated(self, split: Split, arm: str) -> float | None:
        """Returns the share of repeated 4-grams on a half's open prompts; None where there is no reply."""
        half = self.halves.get(split)
        shown = () if half is None else half.open
        return next((row.means["repeated_4grams"].estimate for row in shown if row.arm == arm), None)

    def complete(self, split: Split) -> frozenset[str]:
        """Returns the arms of which nothing that is planned on a half's questions is missing."""
        own = [one for one in self.coverage if one.split == split and not one.open]
        return frozenset(one.arm for one in own) - {one.arm for one in own if one.found < one.planned}


def findings(plan: EvidencePlan, model: str, results: Path, resamples: int = RESAMPLES) -> Findings:
    """Returns the figures of a model from the stored results of any code."""
    names = [model, *(one.name for one in plan.models.values() if one.of == model)]
    everything = [run for name in names for run in plan.runs_of(name)]
    runs = [run for run in everything if not run.apart]
    arms = Arms(
        {key: arm for name in names for key, arm in plan.models[name].arms.requests.items()},
        {key: arm for name in names for key, arm in plan.models[name].arms.rules.items()},
        frozenset().union(*(plan.models[name].arms.hidden for name in names)),
    )
    collected: dict[Split, Collected] = {}
    halves: dict[Split, Half] = {}
    stores = {name: open_store(results, name, request_arms(plan.runs_of(name))) for name in names}
    for split in SPLITS:
        parts = [(run, stores[run.model]) for run in runs if run.split == split]
        if not parts:
            continue
        found = _merged([collect(run.items, run.arms, store, lambda _: None) for run, store in parts])
        collected[split] = found
        halves[split] = _half(split, found, arms, plan, resamples)
    return Findings(
        model=model,
        baseline=plan.baseline,
        default=plan.default,
        arms=arms,
        collected=collected,
        halves=halves,
        coverage=tuple(_coverage(runs, plan, collected)),
        provenance=tuple(
            _provenance(arm, stores[name]) for name in names for arm in request_arms(plan.runs_of(name))
        ),
        screened=_screened(plan, [run for run in everything if run.model == model], stores[model]),
        seconds={
            arm.name: _seconds(stores[name].results(arm))
            for name in names
            if plan.models[name].timed
            for arm in request_arms(plan.runs_of(name))
            if stores[name].results(arm)
        },
    )


def _screened(plan: EvidencePlan, runs: Sequence[Run], store: Store) -> dict[str, Screened]:
    found: dict[tuple[str, bool], list[float]] = {}
    for run in runs:
        if run.split == "fit" and plan.baseline in run.arms.requests:
            scored = collect(run.items, run.arms, store, lambda _: None)
            for item, answer in scored.scored.get(plan.baseline, {}).items():
                found.setdefault((scored.families[item], run.apart), []).append(answer.correct)
    return {
        family: Screened(len(right), sum(right) / len(right), apart, plan.least)
        for (family, apart), right in found.items()
    }


def _merged(parts: Sequence[Collected]) -> Collected:
    """Returns the results of several runs as one; an arm may have part of its items in each."""
    return Collected(
        families={item: family for part in parts for item, family in part.families.items()},
        scored=_joined([part.scored for part in parts]),
        open=_joined([part.open for part in parts]),
        answers={
            name: [answer for part in parts for answer in part.answers.get(name, ())]
            for name in {name: None for part in parts for name in part.answers}
        },
    )


def _joined(parts: Sequence[Mapping[str, Mapping[str, T]]]) -> dict[str, dict[str, T]]:
    found: dict[str, dict[str, T]] = {}
    for part in parts:
        for name, results in part.items():
            found.setdefault(name, {}).update(results)
    return found


def _half(split: Split, found: Collected, arms: Arms, plan: EvidencePlan, resamples: int) -> Half:
    scored = {name: results for name, results in found.scored.items() if results}
    known = {
        against: curve
        for against, curve in curves(arms, scored).items()
        if any(against.startswith(word) for word in CURVES)
    }
    members = {
        name for curve in known.values() for name in curve if name in arms.requests or _plain(arms, name)
    }
    pairs = [
        (name, against)
        for name in scored
        if looks_again(arms, name) and name not in members
        for against, curve in known.items()
        if name not in curve
    ]
    shown = (
        tables(scored, found.families, plan.baseline, resamples, plan.seed) if plan.baseline in scored else []
    )
    return Half(
        split=split,
        tables=tuple(shown),
        equal=tuple(at_equal_tokens(pairs, scored, known, found.families, resamples, plan.seed)),
        open=tuple(
            open_row(name, replies, resamples, plan.seed) for name, replies in found.open.items() if replies
        ),
        scores=(),
        calibration=None,
    )


def _plain(arms: Arms, name: str) -> bool:
    """True if an arm is a vote or best-of-n of a fixed number of replies."""
    rule = arms.rules.get(name)
    return rule is not None and isinstance(rule.rule, Rule) and not rule.rule.answered


def looks_again(arms: Arms, name: str) -> bool:
    """True if an arm computes several continuations of a prompt: a rule, branches, a vote of a server."""
    if name in arms.rules:
        return True
    body = arms.requests[name].body
    block = body.get("entropick", {})
    return "its_hub" in body or bool(block.get("branch")) or bool(block.get("consensus"))


def _coverage(
    runs: Sequence[Run], plan: EvidencePlan, collected: Mapping[Split, Collected]
) -> Iterator[Coverage]:
    """Yields, for each half and arm, how many of the planned items have a result; open prompts apart."""
    planned: dict[tuple[str, Split, bool], tuple[set[str], str | None]] = {}
    for run in runs:
        by = plan.models[run.model].by
        for is_open in (False, True):
            items = {item.id for item in run.items if (item.check is None) == is_open}
            names = [name for name in run.arms.requests if name not in run.arms.hidden]
            names += [] if is_open else list(run.arms.rules)
            for name in names if items else ():
                planned.setdefault((name, run.split, is_open), (set(), by))[0].update(items)
    for (name, split, is_open), (items, by) in planned.items():
        found = (collected[split].open if is_open else collected[split].scored).get(name, {})
        yield Coverage(name, split, is_open, len(items), len(items & found.keys()), by)


def _provenance(arm: Arm, store: Store) -> Provenance:
    results = store.results(arm)
    return Provenance(
        arm=arm.name,
        replies=len(results),
        tokens=sum(result.spent for result in results),
        codes=tuple(sorted({result.code for result in results})),
        stamps=store.stamps(arm),
    )


def _seconds(results: Sequence[Result]) -> Seconds:
    times = [result.latency for result in results]
    return Seconds(len(times), float(np.median(times)), float(np.quantile(times, 0.9)))
