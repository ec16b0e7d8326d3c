"""Fits mixes of features that predict wrong answers and judges them, on known families and others."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from entropick_sampler.error_probability import Mix, Weight

from .bootstrap import Floats
from .error_data import Example
from .logistic import fit_logistic
from .prediction import auroc, brier, ece
from .resampled import Measure, aurocs, bootstrap_of, prrs

PENALTY: Final = 3.0
"""of the squared weights of standardised features, beside the sum of the log losses of all examples; 1 and 10
are no better on families left out of smollm2's fit half"""
DIGITS: Final = 6
"""of a coefficient, behind the point"""
FOLDS: Final = 10
"""parts of the fit half of which each is predicted by a fit on the others"""
PERFECT_DRAWS: Final = 100
LEAST: Final = 5
"""right replies, and wrong replies, of the smallest family whose AUROC counts"""
Predict = Callable[[Sequence[Example], Sequence[Example]], Floats]
"""fits on the first examples and returns the probability that each of the second is wrong"""
Estimate = tuple[float, float, float]
"""a measure with the limits of its interval"""


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of a predictor of wrong answers on some examples; a measure without meaning is NaN."""

    n: int
    within: Estimate
    """mean of the AUROC within each family that has :data:`LEAST` right and as many wrong replies"""
    pooled: Estimate
    prr: Estimate
    ece: float
    """expected calibration error, 15 bins of equal mass; of a score that is no probability NaN"""
    ece_perfect: float
    """the mean of that error where every outcome is drawn with its predicted probability: 0 but for chance"""
    brier: float
    base: float
    """the Brier score of always saying the share of errors"""
    families: Mapping[str, tuple[int, float, float]]
    """family -> examples, share of wrong replies, AUROC within it"""


def fit_mix(examples: Sequence[Example], names: Sequence[str], penalty: float = PENALTY) -> Mix:
    """Returns the logistic mix of some features; examples that lack one of them are left out.

    Raises ValueError where no example has all of them.
    """
    known = [one for one in examples if all(name in one.features for name in names)]
    x = _matrix(known, names)
    found = fit_logistic(x, np.array([one.wrong for one in known], dtype=np.float64), penalty)
    low, high = x.min(0), x.max(0)
    rows = zip(names, found.weights.tolist(), low.tolist(), high.tolist(), strict=True)
    # a feature that never varied tells nothing; other processors round the last digits otherwise
    weights = {name: Weight(_rounded(w), _rounded(lo), _rounded(hi)) for name, w, lo, hi in rows if w != 0.0}
    return Mix(_rounded(found.bias), weights)


def _rounded(value: float) -> float:
    return round(value, DIGITS)


def _matrix(examples: Sequence[Example], names: Sequence[str]) -> Floats:
    return np.array([[one.features[name] for name in names] for one in examples]).reshape(-1, len(names))


def by_mix(names: Sequence[str], penalty: float = PENALTY) -> Predict:
    """Returns the predictor that fits a mix of some features."""

    def predict(fit: Sequence[Example], judged: Sequence[Example]) -> Floats:
        mix = fit_mix(fit, names, penalty)
        return np.array([_or_nan(mix.probability(one.features)) for one in judged])

    return predict


def by_score(name: str, *, doubt: bool, absent: float = math.nan) -> Predict:
    """Returns the predictor that reads one feature and fits nothing.

    ``doubt``: whether a larger value means more doubt; ``absent``: the value of an example without an answer,
    whose features of the answer are 0.
    """

    def predict(_: Sequence[Example], judged: Sequence[Example]) -> Floats:
        found = []
        for one in judged:
            value = one.features.get(name, math.nan)
            if name.startswith("answer_") and one.features.get("no_answer") == 1.0:
                value = absent
            found.append(value if doubt else -value)
        return np.array(found)

    return predict


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def on_known_families(
    predict: Predict, fit: Sequence[Example], judged: Sequence[Example] | None
) -> tuple[list[Example], Floats]:
    """Returns examples with their predictions, by a fit that saw their families but not their contents.

    ``judged`` None: the examples of the fit themselves, in :data:`FOLDS` parts of which each is predicted by
    a fit on the others; what is asked in several forms is in one part.
    """
    if judged is not None:
        return list(judged), predict(fit, judged)
    folds = np.array([_fold(one.content) for one in fit])
    found = np.full(len(fit), np.nan)
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any() and not inside.all():
            found[inside] = predict(_chosen(fit, ~inside), _chosen(fit, inside))
    return list(fit), found


def on_families_left_out(
    predict: Predict, fit: Sequence[Example], judged: Sequence[Example]
) -> tuple[list[Example], Floats]:
    """Returns examples with their predictions, each family's by a fit on the examples of all others."""
    found = np.full(len(judged), np.nan)
    families = np.array([one.family for one in judged])
    for family in np.unique(families):
        others = [one for one in fit if one.family != family]
        if others:
            found[families == family] = predict(others, _chosen(judged, families == family))
    return list(judged), found


def _fold(content: str) -> int:
    return hashlib.sha256(content.encode()).digest()[0] % FOLDS


def _chosen(examples: Sequence[Example], mask: NDArray[np.bool_]) -> list[Example]:
    return [one for one, inside in zip(examples, mask, strict=True) if inside]


def judge(
    examples: Sequence[Example],
    predicted: Floats,
    resamples: int,
    seed: int = 0,
    *,
    probabilities: bool = True,
) -> Judged | None:
    """Returns the figures of predictions, with bootstrap intervals over items within families.

    Examples whose prediction is NaN are left out; None where that leaves no right or no wrong reply.
    """
    known = ~np.isnan(predicted)
    chosen, p = _chosen(examples, known), predicted[known]
    wrong = np.array([one.wrong for one in chosen], dtype=bool)
    if not len(chosen) or wrong.all() or not wrong.any():
        return None
    names = sorted({one.family for one in chosen})
    strata = np.array([names.index(one.family) for one in chosen])

    counts = [(int((strata == f).sum()), int(wrong[strata == f].sum())) for f in range(len(names))]
    large = [f for f, (n, errors) in enumerate(counts) if min(errors, n - errors) >= LEAST]

    groups = [strata == family for family in range(len(names))]

    def within(drawn: Floats) -> Floats:
        return _mean_within(p, wrong, [groups[f] for f in large], drawn)

    def pooled(drawn: Floats) -> Floats:
        return aurocs(p, wrong, drawn)

    def rejection(drawn: Floats) -> Floats:
        return prrs(-p, ~wrong, drawn)

    def interval(measure: Measure) -> Estimate:
        return bootstrap_of(measure, strata, resamples, seed)

    squares = brier(p, wrong) if probabilities else (math.nan, float(wrong.mean() * (1 - wrong.mean())))
    return Judged(
        n=len(chosen),
        within=interval(within),
        pooled=interval(pooled),
        prr=interval(rejection),
        ece=ece(p, wrong) if probabilities else math.nan,
        ece_perfect=perfect_ece(p, seed) if probabilities else math.nan,
        brier=squares[0],
        base=squares[1],
        families={
            name: (n, errors / n, auroc(p[groups[f]], wrong[groups[f]]))
            for f, (name, (n, errors)) in enumerate(zip(names, counts, strict=True))
        },
    )


def perfect_ece(probabilities: Floats, seed: int = 0) -> float:
    """Returns the mean expected calibration error of outcomes that are drawn with these probabilities.

    So much of an error is chance: a bootstrap interval would not show it, for resampling adds to the error.
    """
    rng = np.random.default_rng(seed)
    drawn = (rng.random(len(probabilities)) < probabilities for _ in range(PERFECT_DRAWS))
    return float(np.mean([ece(probabilities, outcomes) for outcomes in drawn]))


def difference(
    examples: Sequence[Example], first: Floats, second: Floats, resamples: int, seed: int = 0
) -> Estimate:
    """Returns how much larger the mean AUROC within families is by the first predictions, with its interval.

    The families are those of :func:`judge`; examples that either prediction leaves out are left out.
    """
    known = ~np.isnan(first) & ~np.isnan(second)
    wrong = np.array([one.wrong for one in _chosen(examples, known)], dtype=bool)
    labels = [one.family for one in _chosen(examples, known)]
    names = sorted(set(labels))
    strata = np.array([names.index(label) for label in labels])
    errors = np.bincount(strata, weights=wrong)
    rights = np.bincount(strata, weights=~wrong)
    large = [f for f in range(len(names)) if min(errors[f], rights[f]) >= LEAST]
    pair = first[known], second[known]

    groups = [strata == family for family in large]

    def measure(drawn: Floats) -> Floats:
        one, other = (_mean_within(p, wrong, groups, drawn) for p in pair)
        return one - other

    return bootstrap_of(measure, strata, resamples, seed)


def _mean_within(
    p: Floats, wrong: NDArray[np.bool_], groups: Sequence[NDArray[np.bool_]], drawn: Floats
) -> Floats:
    """Returns the mean AUROC over groups of examples of each resample, [rows]; NaN where a group has none."""
    if not groups:
        return np.full(len(drawn), math.nan)
    return np.asarray(np.mean([aurocs(p[own], wrong[own], drawn[:, own]) for own in groups], axis=0))
