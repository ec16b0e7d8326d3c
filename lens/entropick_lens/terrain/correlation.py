"""Correlations, ranks and quantiles of a few thousand to a few million numbers."""

from __future__ import annotations

import math

import torch


def pearson(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """Returns Pearson's r of two vectors, or None where a vector is constant or has fewer than two values."""
    if x.numel() < 2 or bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return None
    a, b = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0.0 else None


def ranks(x: torch.Tensor) -> torch.Tensor:
    """Returns the ranks of a vector's values from 0, ties with their mean rank, as float64."""
    _, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double() - 1.0
    found: torch.Tensor = (last - (counts.double() - 1.0) / 2.0)[inverse]
    return found


def spearman(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """Returns Spearman's rho of two vectors, or None where a vector is constant."""
    return pearson(ranks(x), ranks(y))


def quantiles(x: torch.Tensor, at: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the quantiles of a vector of any length, by linear interpolation between the sorted values."""
    ordered = x.double().sort().values
    places = torch.tensor(at, dtype=torch.float64) * (ordered.numel() - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=ordered.numel() - 1)
    part = places - low
    return tuple(float(v) for v in ordered[low] * (1 - part) + ordered[high] * part)


def upper_pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the indices (i, j), i < j, of all pairs of ``count`` items."""
    pairs = torch.triu_indices(count, count, 1)
    return pairs[0], pairs[1]
