"""Bootstrap intervals over items: percentile intervals of means, stratified by family.

The unit is the item: an item drawn twice counts twice, with the values of all arms, so differences of arms
are paired. Every family of five items or more keeps its number of items in every resample. Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
LEAST: Final = 5
"""items of the smallest family that is a stratum of its own"""
_CHUNK: Final = 250
"""resamples whose counts are in memory at a time"""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the limits of its interval; NaN without data."""

    estimate: float
    low: float
    high: float
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
    whole = bool(known.all())  # then every resample has all n items
    found = []
    for counts in draw_counts(strata, resamples, seed):
        with np.errstate(invalid="ignore"):
            found.append((counts @ filled) / (len(values) if whole else counts @ known))
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
        return Interval(np.nan, np.nan, np.nan, 0)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def sign_flips(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> list[float]:
    """Returns the two-sided p value of the mean of every column of ``values`` [n, m] under random signs.

    A paired randomisation test: where two arms are alike, each difference is as likely negative as positive.
    p is the share of random signs whose mean is at least as far from 0, the observed signs among them.
    It is valid for few items too, where an interval may have no width. NaN is missing; without data p is 1.
    """
    rng = np.random.default_rng(seed)
    filled = np.where(np.isnan(values), 0.0, values)
    observed = np.abs(filled.sum(0))
    beyond = np.zeros(values.shape[1])
    for begin in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - begin)
        signs = rng.integers(0, 2, size=(rows, len(values)), dtype=np.int8) * 2.0 - 1.0
        # sums that are equal but for rounding count
        beyond += (np.abs(signs @ filled) >= observed - 1e-9).sum(0)
    return [float(one) for one in (beyond + 1) / (resamples + 1)]


def strata_of(families: Sequence[str], least: int = LEAST) -> list[int]:
    """Returns the number of each item's stratum: its family, or all families of fewer than ``least`` items.

    A stratum of one item would not vary at all. Where the small families together are too few as well, they
    join the smallest of the others.
    """
    sizes = Counter(families)
    small = {family for family, size in sizes.items() if size < least}
    others = sorted((size, family) for family, size in sizes.items() if size >= least)
    if others and 0 < sum(sizes[family] for family in small) < least:
        small.add(others[0][1])
    names = sorted(set(families) - small)
    return [0 if family in small else 1 + names.index(family) for family in families]


def holm(p: Sequence[float]) -> list[float]:
    """Returns p values adjusted for their number by Holm's method (Scandinavian J. of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=lambda at: p[at])
    adjusted = [1.0] * len(p)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = highest
    return adjusted
