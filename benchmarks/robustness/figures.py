"""Percentiles, and the median of paired ratios with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least ``share`` of the values do not exceed; NaN of no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def median_of_ratios(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Returns the median of the pairs' ratios, the least and the largest, and how sure these two enclose it.

    Each ratio is on either side of the true median with probability 1/2, so the least and the largest of n
    miss it with probability 2 / 2^n, whatever the distribution.
    """
    ratios = sorted(first / second for first, second in pairs)
    return median(ratios), ratios[0], ratios[-1], 1 - 2.0 ** (1 - len(ratios))
