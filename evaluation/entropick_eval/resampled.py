"""How well scores predict right answers in every resample of a bootstrap at once.

A resample is how often each item is drawn, so a chunk of resamples is a matrix [rows, n] of counts and a
measure gives [rows] values: the functions are those of :mod:`.prediction` on items that count several times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import LEVEL, Floats, draw_counts
from .prediction import REJECTED

Measure = Callable[[Floats], Floats]
"""values [rows] of resamples whose counts are [rows, n]; NaN where a resample has none"""


def aurocs(scores: ArrayLike, right: ArrayLike, counts: Floats) -> Floats:
    """Returns :func:`.prediction.auroc` of each resample, [rows], from the counts [rows, n] of its items."""
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if not len(s):
        return np.full(len(counts), np.nan)
    order = np.argsort(s, kind="stable")
    starts = _group_starts(s[order])
    drawn, is_right = counts[:, order], r[order]
    above = np.add.reduceat(drawn * is_right, starts, axis=1)
    below = np.add.reduceat(drawn * ~is_right, starts, axis=1)
    lower = np.cumsum(below, axis=1) - below
    pairs = above.sum(1) * below.sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(pairs > 0, (above * (lower + below / 2)).sum(1) / pairs, np.nan))


def mean_aurocs(
    scores: ArrayLike, right: ArrayLike, groups: Sequence[NDArray[np.bool_]], counts: Floats
) -> Floats:
    """Returns the mean AUROC over groups of items of each resample, [rows]; a group without is left out."""
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    found = np.array([aurocs(s[own], r[own], counts[:, own]) for own in groups]).reshape(
        len(groups), len(counts)
    )
    known = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, found, 0.0).sum(0) / known.sum(0))


def prrs(scores: ArrayLike, right: ArrayLike, counts: Floats, rejected: float = REJECTED) -> Floats:
    """Returns :func:`.prediction.prr` of each resample, [rows], from the counts [rows, n] of its items.

    Every resample must draw the same number of items.
    """
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    order = np.argsort(s, kind="stable")
    drawn, is_right = counts[:, order].astype(np.int64), r[order]
    n = int(drawn[0].sum())
    if not n:
        return np.full(len(counts), np.nan)
    last = int(rejected * n)
    starts = _group_starts(s[order])
    in_group = np.add.reduceat(drawn, starts, axis=1)
    right_in_group = np.add.reduceat(drawn * is_right, starts, axis=1)
    share = right_in_group / np.maximum(in_group, 1)
    # items in the order of their scores, as often as each is drawn; equal scores are equally likely right
    expected = np.repeat(share.ravel(), in_group.ravel()).reshape(len(drawn), n)
    rights = right_in_group.sum(1)
    kept = np.arange(n, n - last - 1, -1)
    before = np.concatenate([np.zeros((len(drawn), 1)), expected[:, :last].cumsum(1)], axis=1)
    area = ((rights[:, None] - before) / kept).mean(1)
    oracle = (np.minimum(rights[:, None], kept) / kept).mean(1)
    base = rights / n
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (area - base) / (oracle - base)
    return np.asarray(np.where((rights > 0) & (rights < n) & (oracle > base), ratio, np.nan))


def bootstrap_of(
    measure: Measure,
    strata: Sequence[int] | NDArray[np.int64],
    resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """Returns a measure of all items with the limits of its percentile interval.

    A resample in which the measure is NaN is left out. NaN limits where all are.
    """
    drawn = np.concatenate([measure(counts) for counts in draw_counts(strata, resamples, seed)])
    drawn = drawn[~np.isnan(drawn)]
    estimate = float(measure(np.ones((1, len(strata))))[0])
    if not len(drawn):
        return estimate, float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return estimate, float(low), float(high)


def _group_starts(ordered: Floats) -> NDArray[np.int64]:
    """Returns where each run of equal values of a sorted array begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
