"""The figures of an embedding that its row sums give: spectrum, participation ratio, norms, mean cosine.

They hold for all V rows and do not depend on the rows' order: a shuffled embedding has the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .correlation import quantiles
from .rows import RowSums

ENERGY_SHARES: Final = (0.8, 0.9, 0.95, 0.99)
NORM_QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The eigenvalues of the rows' covariance, in descending order, and their participation ratio."""

    eigenvalues: tuple[float, ...]
    participation_ratio: float | None = None
    participation_share: float | None = None
    """The participation ratio divided by the width d."""
    gaussian_share: float
    """The share that N Gaussian rows of independent entries have, N / (N + d)."""
    dimensions: dict[str, int]
    """The number of eigenvalues that hold 80, 90, 95 and 99 % of the variance, by percentage."""


@dataclass(frozen=True, slots=True)
class Norms:
    """The distribution of the rows' Euclidean norms."""

    least: float
    greatest: float
    mean: float
    deviation: float
    quantiles: dict[str, float]
    zero_rows: int
    not_finite_rows: int
    lowest: tuple[int, ...]
    """The ids of the ten rows with the smallest norms, in ascending order of them."""
    highest: tuple[int, ...]
    """The ids of the ten rows with the largest norms, in descending order of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanCosine:
    """The mean cosine over all pairs of rows that are not zero, and its deviation for random directions."""

    mean: float | None = None
    null_deviation: float
    """The standard deviation 1 / sqrt(d) of ONE pair's cosine for random directions."""
    rows: int
    mean_row_share: float | None = None
    """The norm of the mean row divided by the mean norm: how far the cloud lies off the origin."""


def participation_ratio(eigenvalues: torch.Tensor) -> float | None:
    """Returns (sum of the eigenvalues)^2 / sum of their squares, 1 to d, or None where all are 0."""
    values = eigenvalues.double()
    squares = float((values * values).sum())
    return float(values.sum()) ** 2 / squares if squares > 0.0 else None


def gaussian_participation_share(rows: int, width: int) -> float:
    """Returns the participation ratio divided by d of N rows of Gaussian noise in d dimensions, N / (N + d).

    A sample of N rows overstates how unequal the eigenvalues are; with N = 10 d, the share is 0.91, not 1.
    """
    return rows / (rows + width)


def spectrum(sums: RowSums) -> Spectrum:
    """Computes the covariance spectrum of an embedding from its row sums, in float64."""
    values = torch.linalg.eigvalsh(sums.covariance()).flip(0).clamp(min=0.0)
    ratio = participation_ratio(values)
    held = values.cumsum(0) / values.sum() if ratio is not None else values
    return Spectrum(
        eigenvalues=tuple(values.tolist()),
        participation_ratio=ratio,
        participation_share=None if ratio is None else ratio / sums.width,
        gaussian_share=gaussian_participation_share(sums.counted, sums.width),
        dimensions={
            f"{share:.0%}".rstrip("%"): min(int((held < share - 1e-12).sum()) + 1, sums.width)
            for share in ENERGY_SHARES
            if ratio is not None
        },
    )


def norms(sums: RowSums, listed: int = 10) -> Norms:
    """Computes the distribution of the row norms, without the rows that are not finite.

    Raises ValueError where no row is finite.
    """
    ids = torch.nonzero(~sums.norms.isnan()).squeeze(1)
    if ids.numel() == 0:
        raise ValueError("every row of the embedding has a number that is not finite")
    finite = sums.norms[ids]
    order = finite.argsort(stable=True)
    return Norms(
        least=float(finite.min()),
        greatest=float(finite.max()),
        mean=float(finite.mean()),
        deviation=float(finite.std(correction=0)),
        quantiles={
            f"{at:g}": v for at, v in zip(NORM_QUANTILES, quantiles(finite, NORM_QUANTILES), strict=True)
        },
        zero_rows=int((finite == 0.0).sum()),
        not_finite_rows=sums.not_finite,
        lowest=tuple(ids[order[:listed]].tolist()),
        highest=tuple(ids[order.flip(0)[:listed]].tolist()),
    )


def mean_cosine(sums: RowSums) -> MeanCosine:
    """Computes the mean cosine over ALL pairs of rows: (|sum of the unit rows|^2 - N) / (N (N - 1))."""
    count = int((sums.norms > 0.0).sum())
    mean_norm = float(sums.norms[~sums.norms.isnan()].mean()) if sums.counted else 0.0
    return MeanCosine(
        mean=(float(sums.unit_total @ sums.unit_total) - count) / (count * (count - 1))
        if count > 1
        else None,
        null_deviation=1.0 / math.sqrt(sums.width),
        rows=count,
        mean_row_share=float(sums.mean.norm()) / mean_norm if mean_norm > 0.0 else None,
    )
