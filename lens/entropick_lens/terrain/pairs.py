"""Cosines and distances of pairs of rows, over a sample of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .groups import unit

BINS: Final = 200
MARKS: Final = (0.0, 0.19471, 0.29514, 0.5)
"""cosines that published work calls special: its constants, and two plain values"""
NEAR: Final = 0.01
_QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_DISTANCE_ROWS: Final = 2000
_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Mark:
    """The share of pairs whose cosine lies within 0.01 of a value."""

    cosine: float
    share: float
    null_share: float
    """The share of a normal distribution with the mean and the deviation of all pairs."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The distribution of the cosines of all pairs of some rows, and of the distances of fewer."""

    rows: int
    mean: float
    deviation: float
    quantiles: dict[str, float]
    """Of the cosines, from a histogram with bins of 0.01."""
    histogram: tuple[int, ...]
    """The counts of 200 bins of the cosine from -1 to 1."""
    marks: tuple[Mark, ...]
    distance_rows: int
    distance_mean: float
    distance_deviation: float
    null_deviation: float
    """The deviation of one pair's cosine for random directions, 1 / sqrt(d)."""


def pairs(rows: torch.Tensor) -> Pairs:
    """Measures all pairs of ``rows`` [n, d], block by block. Raises ValueError for fewer than two rows."""
    count, width = rows.shape
    if count < 2:
        raise ValueError("pairs need two rows")
    u = unit(rows)
    histogram = torch.zeros(BINS, dtype=torch.float64)
    near = [0] * len(MARKS)
    total = square = 0.0
    for start in range(0, count, _AT_ONCE):
        block = u[start : start + _AT_ONCE] @ u[start:].T
        cosines = block[torch.triu(torch.ones_like(block, dtype=torch.bool), 1)]
        histogram += torch.histc(cosines.clamp(-1.0, 1.0), BINS, -1.0, 1.0)
        total += float(cosines.sum())
        square += float((cosines * cosines).sum())
        for at, mark in enumerate(MARKS):
            near[at] += int(((cosines - mark).abs() < NEAR).sum())
    number = count * (count - 1) // 2
    mean = total / number
    deviation = math.sqrt(max(0.0, square / number - mean * mean))
    few = rows[:_DISTANCE_ROWS].double()
    distances = torch.pdist(few)
    return Pairs(
        rows=count,
        mean=mean,
        deviation=deviation,
        quantiles={f"{at:g}": _quantile(histogram, at) for at in _QUANTILES},
        histogram=tuple(int(n) for n in histogram.tolist()),
        marks=tuple(
            Mark(mark, hits / number, _normal_share(mark, mean, deviation))
            for mark, hits in zip(MARKS, near, strict=True)
        ),
        distance_rows=few.shape[0],
        distance_mean=float(distances.mean()),
        distance_deviation=float(distances.std(correction=0)),
        null_deviation=1.0 / math.sqrt(width),
    )


def _quantile(histogram: torch.Tensor, at: float) -> float:
    """Interpolates a quantile within the bin of a histogram over -1 to 1."""
    held = histogram.cumsum(0)
    wanted = at * float(held[-1])
    place = min(int((held < wanted).sum()), BINS - 1)
    inside = float(histogram[place])
    part = (wanted - float(held[place]) + inside) / inside if inside > 0.0 else 0.0
    return -1.0 + (place + part) * 2.0 / BINS


def _normal_share(mark: float, mean: float, deviation: float) -> float:
    if deviation <= 0.0:
        return float(abs(mark - mean) < NEAR)
    low, high = ((mark + side - mean) / (deviation * math.sqrt(2.0)) for side in (-NEAR, NEAR))
    return (math.erf(high) - math.erf(low)) / 2.0
