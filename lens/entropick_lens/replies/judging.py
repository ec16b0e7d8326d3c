"""Judges how well a label of replies can be read off several sets of features, out of fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..grids import Grid, grid
from .reading import (
    FOLDS,
    Floats,
    Ints,
    macro_auc,
    neighbour_weights,
    permutations,
    resampled_counts,
    ridge_weights,
    scores_of,
    stratified_folds,
    within_auc,
)

NEIGHBOURS: Final = 29
"""the source's k"""
FEW_NEIGHBOURS: Final = 5
"""where a class has fewer than NEIGHBOURS texts; the source's k for formats are 3, 5 and 7"""
LEAST: Final = FOLDS
"""texts of the smallest class that is judged"""
LEAST_WITHIN: Final = 5
"""texts of each side in a task whose AUC counts"""
RESAMPLES: Final = 500
MOST_PERMUTED: Final = 200
READERS: Final = ("k-NN", "ridge")
BASIS: Final = "signals"
"""the features that others are compared with"""


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve with its interval, beside areas of permuted labels."""

    value: float
    low: float
    high: float
    """the 95 % interval: groups drawn again"""
    permuted: float
    """the mean with permuted labels"""
    permuted_high: float
    """their 95th percentile"""
    p: float
    """the share of permutations, the observed labels among them, that reach the value"""


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of two areas with its paired 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A label as a reader gets it out of a set of features."""

    features: str
    reader: str
    area: Area
    """over all texts; of several classes the mean of each against the rest"""
    within: Area | None
    """inside tasks, the mean over them; None where no task has both sides"""
    gain: Gain | None
    """over the ordinary signals, of the same reader; None for these themselves"""
    within_gain: Gain | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A label, its texts, and the areas of its readers."""

    label: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    groups: int
    neighbours: int
    tasks_within: int
    """tasks whose own area counts in ``within``"""
    readings: tuple[Reading, ...]
    confusion: Grid
    """of the nearest neighbours on ``layers``: of the texts of a class (row) the share that is taken for
    each"""


def judge(
    label: str,
    values: Sequence[str],
    groups: Sequence[str],
    features: Mapping[str, Floats],
    rounds: int,
    seed: int,
    tasks: Sequence[str] | None = None,
) -> Judged | str:
    """Judges a label by all features [n, d], each with both readers, on the same folds.

    ``values``, ``groups`` [n]; ``tasks`` [n]: what the areas ``within`` are taken inside, None for no such
    area. ``rounds``: permutations of the labels. Classes of fewer than LEAST texts are left out. Returns why
    the label cannot be judged where fewer than two classes are left.
    """
    counted = Counter(values)
    names = sorted(name for name, count in counted.items() if count >= LEAST)
    if len(names) < 2:
        return f"{label}: fewer than two values with {LEAST} texts each"
    kept = np.array([i for i, value in enumerate(values) if value in names])
    classes: Ints = np.array([names.index(values[i]) for i in kept], dtype=np.int64)
    own = [groups[i] for i in kept]
    if len(set(own)) < FOLDS:
        return f"{label}: {len(set(own))} groups, of which {FOLDS} folds cannot be made"
    folds = stratified_folds(classes, own, seed)
    smallest = min(counted[name] for name in names)
    k = min(
        NEIGHBOURS if smallest >= NEIGHBOURS else FEW_NEIGHBOURS, len(kept) - int(np.bincount(folds).max())
    )
    strata = _strata(classes, None if tasks is None else [tasks[i] for i in kept], len(names))
    count = resampled_counts(own, RESAMPLES, seed)
    rounds = min(rounds, MOST_PERMUTED)
    # within folds, so that these stay stratified: else a text's class is the rarer one among the others
    orders = permutations(own, folds, rounds, seed)
    inside = permutations(own, strata * FOLDS + folds, rounds, seed) if (strata >= 0).any() else None
    found: dict[tuple[str, str], tuple[Area, Floats, Area | None, Floats | None]] = {}
    confusion = np.zeros((len(names), len(names)))
    for name, matrix in features.items():
        x = matrix[kept]
        for reader in READERS:
            weights = neighbour_weights(x, folds, k) if reader == "k-NN" else ridge_weights(x, folds)
            scores = scores_of(weights, classes)
            if name == "layers" and reader == "k-NN":
                np.add.at(confusion, (classes, scores.argmax(1)), 1.0)
            drawn = macro_auc(scores, classes, count)
            permuted = scores_of(weights, classes[orders])
            null = np.array([macro_auc(s, classes[o])[0] for s, o in zip(permuted, orders, strict=True)])
            area = _area(float(macro_auc(scores, classes)[0]), drawn, null)
            within, drawn_within = None, None
            if inside is not None:
                drawn_within = within_auc(scores, classes, strata, count)
                permuted = scores_of(weights, classes[inside])
                null = np.array(
                    [within_auc(s, classes[o], strata)[0] for s, o in zip(permuted, inside, strict=True)]
                )
                within = _area(float(within_auc(scores, classes, strata)[0]), drawn_within, null)
            found[name, reader] = area, drawn, within, drawn_within
    readings = [
        Reading(name, reader, area, within, *_gains(found, name, reader))
        for (name, reader), (area, _, within, _) in found.items()
    ]
    return Judged(
        label,
        tuple(names),
        tuple(counted[name] for name in names),
        len(set(own)),
        k,
        len(np.unique(strata[strata >= 0])),
        tuple(readings),
        grid(confusion / confusion.sum(1, keepdims=True)),
    )


def _strata(classes: Ints, tasks: Sequence[str] | None, count: int) -> Ints:
    """Returns the number of each text's task, -1 where it has too few texts of a class."""
    found: Ints = np.full(len(classes), -1, dtype=np.int64)
    if tasks is None:
        return found
    for number, task in enumerate(sorted(set(tasks))):
        own = np.array([one == task for one in tasks])
        if np.bincount(classes[own], minlength=count).min() >= LEAST_WITHIN:
            found[own] = number
    return found


def _area(value: float, drawn: Floats, null: Floats) -> Area:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    reached = int((null >= value - 1e-12).sum())
    return Area(
        value,
        float(low),
        float(high),
        float(null.mean()),
        float(np.percentile(null, 95)),
        (reached + 1) / (len(null) + 1),
    )


def _gains(
    found: Mapping[tuple[str, str], tuple[Area, Floats, Area | None, Floats | None]], name: str, reader: str
) -> tuple[Gain | None, Gain | None]:
    basis = found.get((BASIS, reader))
    if basis is None or name == BASIS:
        return None, None
    area, drawn, within, drawn_within = found[name, reader]
    gain = _gain(area, basis[0], drawn - basis[1])
    if within is None or basis[2] is None or drawn_within is None or basis[3] is None:
        return gain, None
    return gain, _gain(within, basis[2], drawn_within - basis[3])


def _gain(area: Area, basis: Area, drawn: Floats) -> Gain:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Gain(area.value - basis.value, float(low), float(high))
