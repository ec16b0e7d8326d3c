"""The outcome of a comparison as data, from which the reports are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .arms import Arms
from .bootstrap import Floats, Interval, intervals
from .collect import Answer, Collected
from .comparison import EqualTokens, Table, at_equal_tokens, tables
from .open_text import MEASURES, OpenReply, distinct, measures, words
from .prediction import brier, ece
from .recommend import Recommendation, recommend
from .resampled import aurocs, bootstrap_of, mean_aurocs, prrs
from .rules import ConsensusRule, Rule
from .tasks import Split

_LEAST: Final = 20


@dataclass(frozen=True, slots=True)
class OpenRow:
    """An arm's line in the table of open prompts."""

    arm: str
    n: int
    means: Mapping[str, Interval]
    distinct: Mapping[int, float]
    """n -> distinct n-grams over all replies"""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A score's line in the table of predictors of right answers."""

    score: str
    within: tuple[float, float, float]
    """mean AUROC over the families, with its interval"""
    pooled: tuple[float, float, float]
    prr: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The fit of probabilities of an error to the errors."""

    n: int
    ece: float
    brier: float
    base: float
    """the Brier score of always saying the share of errors"""


@dataclass(frozen=True, slots=True)
class Half:
    """The outcome on the items of one split."""

    split: str
    tables: tuple[Table, ...]
    equal: tuple[EqualTokens, ...]
    open: tuple[OpenRow, ...]
    scores: tuple[ScoreRow, ...]
    calibration: Calibration | None
    """of the server's own ``error_probability`` for the baseline's replies; None where it gives none"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a comparison."""

    model: str
    server: str
    baseline: str
    tasks: tuple[str, ...]
    extracts: tuple[str | Mapping[str, Any], ...]
    """the extractors of the items' answers, the most frequent first"""
    arms: Arms
    halves: Mapping[Split, Half]
    recommended: tuple[Recommendation, ...]
    refused: Mapping[str, str]
    errors: Mapping[tuple[str, str], int]
    dropped: tuple[str, ...]
    """arms that halving left behind"""


def summarise_half(
    split: str, found: Collected, arms: Arms, baseline: str, resamples: int, seed: int
) -> Half:
    """Returns the tables of one split."""
    scored = {name: results for name, results in found.scored.items() if results}
    shown: tuple[Table, ...] = ()
    if baseline in scored:
        shown = tuple(tables(scored, found.families, baseline, resamples, seed))
    known = curves(arms, scored)
    pairs = [(name, against) for against, curve in known.items() for name in scored if name not in curve]
    opened = {name: replies for name, replies in found.open.items() if replies}
    told = [
        (one.features["error_probability"], not one.right)
        for one in found.answers.get(baseline, ())
        if "error_probability" in one.features
    ]
    calibration = None
    if told:
        probabilities, errors = zip(*told, strict=True)
        calibration = Calibration(len(told), ece(probabilities, errors), *brier(probabilities, errors))
    return Half(
        split=split,
        tables=shown,
        equal=tuple(at_equal_tokens(pairs, scored, known, found.families, resamples, seed)),
        open=tuple(open_row(name, replies, resamples, seed) for name, replies in opened.items()),
        scores=tuple(_scores(found.answers.get(baseline, ()), min(resamples, 2000), seed)),
        calibration=calibration,
    )


def curves(arms: Arms, scored: Mapping[str, object]) -> dict[str, list[str]]:
    """Returns the curves of arms that differ in their number of replies alone.

    Votes and best-of-n go from one reply on; the consensus rules of one name are a curve over k and their
    thresholds.
    """
    found: dict[str, list[str]] = {}
    for name, arm in arms.rules.items():
        rule = arm.rule
        if isinstance(rule, Rule) and not rule.answered and name in scored and arm.first is None:
            kind = f"{'vote' if rule.choose == 'vote' else 'best'} of {arm.of}, weight {rule.weight}"
            found.setdefault(kind, [arm.of] if arm.of in scored else []).append(name)
        elif isinstance(rule, ConsensusRule) and name in scored:
            found.setdefault(f"consensus of {arm.of}, rule {rule.config.stop.rule}", []).append(name)
    return {kind: names for kind, names in found.items() if len(names) > 1}


def open_row(name: str, replies: Mapping[str, OpenReply], resamples: int, seed: int) -> OpenRow:
    """Returns an arm's line in the table of open prompts."""
    found = measures(replies)
    rows = [found[item] for item in sorted(found)]
    values = np.array([[row.get(measure, np.nan) for measure in MEASURES] for row in rows])
    means = dict(zip(MEASURES, intervals(values, [0] * len(rows), resamples, seed), strict=True))
    sequences = [words(replies[item].text) for item in sorted(replies)]
    return OpenRow(name, len(rows), means, {n: distinct(sequences, n) for n in (1, 2, 3)})


def _scores(answers: Sequence[Answer], resamples: int, seed: int) -> list[ScoreRow]:
    """Returns how well each feature of a reply predicts that the reply is right; entropies count as doubt."""
    answers = sorted(answers, key=lambda one: one.item)
    right = np.array([one.right for one in answers], dtype=bool)
    if len(answers) < _LEAST or right.all() or not right.any():
        return []
    names = sorted({name for one in answers for name in one.features})
    families = sorted({one.family for one in answers})
    strata = np.array([families.index(one.family) for one in answers])
    groups = [strata == family for family in range(len(families))]
    rows = []
    for name in names:
        # a reply without an answer is the least certain; another feature that some lack is no score of all
        absent = -np.inf if name.startswith("answer_") else np.nan
        doubt = "entropy" in name or name in ("error_probability", "rauq")
        values = np.array([one.features.get(name, absent) for one in answers]) * (-1 if doubt else 1)
        if np.isnan(values).any():
            continue

        def within(counts: Floats, values: Floats = values) -> Floats:
            return mean_aurocs(values, right, groups, counts)

        def pooled(counts: Floats, values: Floats = values) -> Floats:
            return aurocs(values, right, counts)

        def rejection(counts: Floats, values: Floats = values) -> Floats:
            return prrs(values, right, counts)

        rows.append(
            ScoreRow(
                name,
                bootstrap_of(within, strata, resamples, seed),
                bootstrap_of(pooled, strata, resamples, seed),
                bootstrap_of(rejection, strata, resamples, seed),
            )
        )
    return sorted(rows, key=lambda row: -row.within[0])


def recommendations(halves: Mapping[Split, Half], baseline: str) -> tuple[Recommendation, ...]:
    """Returns the settings to serve with; none without a fit half."""
    fit, test = halves.get("fit"), halves.get("test")
    if fit is None or not fit.tables:
        return ()
    return tuple(
        recommend(fit.tables[0], test.tables[0] if test is not None and test.tables else None, baseline)
    )
