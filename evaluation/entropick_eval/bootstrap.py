"""Bootstrap intervals over items: percentile intervals of means, stratified by family.

The unit is the item: an item drawn twice counts twice, with the values of all arms, so differences of arms
are paired. Every family keeps its number of items in every resample. Efron and Tibshirani, An Introduction to
the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
_CHUNK: Final = 250
"""resamples whose counts are in memory at a time"""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the limits of its interval; NaN without data."""

    estimate: float
    low: float
    high: float
    p: float
    """two-sided probability that the quantity is 0, by inversion of the interval; at least 1 / resamples"""
    n: int
    """items"""


def draw_counts(
    strata: Sequence[int] | NDArray[np.int64], resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yields how often each of n items is drawn, [up to 250, n], until there are ``resamples`` rows.

    ``strata`` numbers the stratum of each item; each stratum is resampled to its own size.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(strata)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for begin in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - begin)
        counts = np.zeros((rows, len(labels)))
        for places in members:
            counts[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=rows)
        yield counts


def resampled_means(
    values: Floats, strata: Sequence[int] | NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Returns the means of the columns of ``values`` [n, m] in every resample, [resamples, m].

    NaN marks a value that is missing: the mean is over the others; NaN where there is none.
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    found = []
    for counts in draw_counts(strata, resamples, seed):
        with np.errstate(invalid="ignore"):
            found.append((counts @ filled) / (counts @ known))
    return np.concatenate(found)


def intervals(
    values: Floats,
    strata: Sequence[int] | NDArray[np.int64],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Interval]:
    """Returns the percentile interval of the mean of every column of ``values`` [n, m]; NaN is missing."""
    drawn = resampled_means(values, strata, resamples, seed)
    return [interval_of(values[:, column], drawn[:, column], level) for column in range(values.shape[1])]


def interval_of(values: Floats, drawn: Floats, level: float = LEVEL) -> Interval:
    """Returns the interval of the mean of ``values`` [n], with its resampled means ``drawn``."""
    known = values[~np.isnan(values)]
    drawn = drawn[~np.isnan(drawn)]
    if not len(known) or not len(drawn):
        return Interval(np.nan, np.nan, np.nan, 1.0, 0)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high), two_sided(drawn), len(known))


def two_sided(drawn: Floats) -> float:
    """Returns twice the smaller share of resamples on one side of 0 (0 itself counts for both), at most 1.

    One resample is added to both sides: a finite number of resamples never says 0.
    """
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Returns p values adjusted for their number by Holm's method (Scandinavian J. of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=lambda at: p[at])
    adjusted = [1.0] * len(p)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = highest
    return adjusted
