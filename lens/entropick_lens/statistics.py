"""Statistics of figures that come in groups (heads in layers): correlation, permutation, regression.

Heads of a layer are not independent of each other. So tests permute figures within layers, intervals draw
layers again, and cross-validation leaves whole layers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's r of two figures over heads; figures that do not exist are None."""

    n: int
    r: float | None
    """None where a figure does not vary or there are fewer than three heads"""
    low: float | None = None
    high: float | None = None
    """the 95 % interval: layers drawn again"""
    within: float | None = None
    """r after the means of the layers are taken away"""
    p: float | None = None
    """of the permutation within layers, two-sided"""
    p_holm: float | None = None
    """p corrected for all tests of the section (Holm)"""


def pearson(x: Array, y: Array) -> float | None:
    """Returns Pearson's r of x and y [n]; None where it does not exist."""
    if len(x) < 3:
        return None
    a, b = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if np.sqrt(a @ a) <= _TINY * np.abs(x).max() or np.sqrt(b @ b) <= _TINY * np.abs(y).max() or scale == 0.0:
        return None
    return float(np.clip(a @ b / scale, -1.0, 1.0))


def correlation(x: Array, y: Array, groups: npt.NDArray[Any], rounds: int, seed: int) -> Correlation:
    """Computes r of x and y [n] over heads in ``groups`` [n], with interval and permutation test.

    The test permutes y within groups ``rounds`` times. A difference between layers survives that, so r is
    compared with the mean of the permuted: p is the share of permutations, the observed order among them,
    that are at least as far from it. Layers are drawn again min(rounds, 2000) times for the interval.
    """
    r = pearson(x, y)
    if r is None:
        return Correlation(len(x), None)
    rng = np.random.default_rng(seed)
    low, high = _interval(x, y, groups, min(rounds, 2000), rng)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    a = (x - x.mean()) / np.linalg.norm(x - x.mean())
    b = (y - y.mean()) / np.linalg.norm(y - y.mean())
    permuted = np.zeros(rounds)
    for own in members:
        orders = rng.permuted(np.broadcast_to(np.arange(len(own)), (rounds, len(own))), axis=1)
        permuted += b[own][orders] @ a[own]
    centre = permuted.mean()
    far = np.abs(permuted - centre) >= abs(r - centre) - 1e-12
    p = None if all(len(own) < 2 for own in members) else float((far.sum() + 1) / (rounds + 1))
    return Correlation(len(x), r, low, high, pearson(*_centred(x, y, members)), p)


def _centred(x: Array, y: Array, members: Sequence[npt.NDArray[Any]]) -> tuple[Array, Array]:
    """Takes the mean of each group away."""
    a, b = x.copy(), y.copy()
    for own in members:
        a[own] -= a[own].mean()
        b[own] -= b[own].mean()
    return a, b


def _interval(
    x: Array, y: Array, groups: npt.NDArray[Any], rounds: int, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """Returns the 2.5 and 97.5 percentiles of r with groups drawn again; None with fewer than three
    groups."""
    names = np.unique(groups)
    if len(names) < 3:
        return None, None
    # sums by group are enough for r of any draw
    sums = np.array(
        [
            [len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b]
            for a, b in ((x[groups == g], y[groups == g]) for g in names)
        ]
    )
    drawn = (
        rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds).astype(np.float64)
        @ sums
    )
    n, sx, sy, xx, yy, xy = drawn.T
    spread = (xx - sx * sx / n) * (yy - sy * sy / n)
    there = spread > _TINY * xx * yy
    if there.sum() < rounds / 2:
        return None, None
    values = (xy - sx * sy / n)[there] / np.sqrt(spread[there])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected by Holm's step-down method; None stays, and does not count as a test."""
    there = sorted((p, i) for i, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(there):
        highest = max(highest, min(1.0, p * (len(there) - rank)))
        found[i] = highest
    return found


@dataclass(frozen=True, slots=True)
class Term:
    """A regressor of a regression on standardised figures."""

    name: str
    coefficient: float
    """standard deviations of the outcome for one of the regressor"""
    low: float | None
    high: float | None
    """the 95 % interval: layers drawn again"""
    inflation: float | None
    """variance inflation 1 / (1 - R^2 of this regressor from the others); None where they determine it"""


@dataclass(frozen=True, slots=True)
class Regression:
    """A least-squares fit of a standardised outcome on standardised regressors."""

    n: int
    terms: tuple[Term, ...]
    r2: float
    r2_left_out: float | None
    """R^2 of predictions for each layer from a fit without it; below 0: worse than the mean of the others"""
    residuals: tuple[float, ...]
    """of each row, in standard deviations of the outcome"""


def regress(
    y: Array, columns: dict[str, Array], groups: npt.NDArray[Any], rounds: int = 500, seed: int = 0
) -> Regression | None:
    """Fits y [n] on the named columns [n]; columns that do not vary are left out.

    Returns None where y does not vary or there are not more rows than terms and one.
    """
    names = [name for name, x in columns.items() if x.std() > _TINY * np.abs(x).max()]
    if y.std() <= _TINY * max(np.abs(y).max(), _TINY) or len(y) <= len(names) + 1 or not names:
        return None
    x = np.column_stack([columns[name] for name in names])
    z, target = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    beta = _fit(z, target)
    residuals = target - z @ beta
    rng = np.random.default_rng(seed)
    low, high = _beta_intervals(x, y, groups, rounds, rng)
    return Regression(
        n=len(y),
        terms=tuple(
            Term(name, float(beta[i]), low[i], high[i], _inflation(z, i)) for i, name in enumerate(names)
        ),
        r2=float(1.0 - residuals @ residuals / len(y)),
        r2_left_out=_left_out(x, y, groups),
        residuals=tuple(map(float, residuals)),
    )


def _fit(z: Array, target: Array) -> Array:
    return np.asarray(np.linalg.lstsq(z, target, rcond=None)[0], dtype=np.float64)


def _inflation(z: Array, column: int) -> float | None:
    if z.shape[1] == 1:
        return 1.0
    others = np.delete(z, column, 1)
    rest = z[:, column] - others @ _fit(others, z[:, column])
    share = float(rest @ rest / len(z))
    return None if share < 1e-10 else 1.0 / share


def _left_out(x: Array, y: Array, groups: npt.NDArray[Any]) -> float | None:
    """Returns R^2 of predictions for each group by a fit to the others, whose mean is the comparison."""
    names = np.unique(groups)
    if len(names) < 2:
        return None
    lost = base = 0.0
    for name in names:
        out = groups == name
        if (~out).sum() <= x.shape[1] + 1:
            return None
        design = np.column_stack([np.ones((~out).sum()), x[~out]])
        scale = np.abs(design).max(0)
        beta = _fit(design / scale, y[~out]) / scale
        lost += float(((y[out] - np.column_stack([np.ones(out.sum()), x[out]]) @ beta) ** 2).sum())
        base += float(((y[out] - y[~out].mean()) ** 2).sum())
    return 1.0 - lost / base if base > 0 else None


def _beta_intervals(
    x: Array, y: Array, groups: npt.NDArray[Any], rounds: int, rng: np.random.Generator
) -> tuple[list[float | None], list[float | None]]:
    names = np.unique(groups)
    nothing: list[float | None] = [None] * x.shape[1]
    if len(names) < 3:
        return nothing, nothing
    members = [np.flatnonzero(groups == name) for name in names]
    found = []
    for _ in range(rounds):
        rows = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        a, b = x[rows], y[rows]
        if (a.std(0) <= _TINY).any() or b.std() <= _TINY:
            continue
        found.append(_fit((a - a.mean(0)) / a.std(0), (b - b.mean()) / b.std()))
    if len(found) < rounds / 2:
        return nothing, nothing
    low, high = np.percentile(np.array(found), [2.5, 97.5], axis=0)
    return list(map(float, low)), list(map(float, high))
