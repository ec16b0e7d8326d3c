"""Judges scores that predict whether an answer is right: ranking, rejection, calibration.

A score is higher for an answer that is more likely right. All functions are float64 and take plain sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import Floats

REJECTED: Final = 0.5
"""the share of rejections that the prediction rejection ratio looks at"""
BINS: Final = 15


def _pair(scores: ArrayLike, right: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if s.shape != r.shape or s.ndim != 1:
        raise ValueError(f"scores and right must have one length, got {s.shape} and {r.shape}")
    if np.isnan(s).any():
        raise ValueError("scores must not be NaN")
    return s, r


def auroc(scores: ArrayLike, right: ArrayLike) -> float:
    """Returns the probability that a right answer scores above a wrong answer, a tie being one half.

    Mann and Whitney's U over the number of pairs; NaN where all answers are right, or all wrong.
    """
    s, r = _pair(scores, right)
    above, below = s[r], np.sort(s[~r])
    if not len(above) or not len(below):
        return float("nan")
    lower = np.searchsorted(below, above, side="left")
    upper = np.searchsorted(below, above, side="right")
    return float((lower + upper).sum() / 2 / (len(above) * len(below)))


def prr(scores: ArrayLike, right: ArrayLike, rejected: float = REJECTED) -> float:
    """Returns the prediction rejection ratio over the first ``rejected`` share of rejections.

    The rejection curve is the share of right answers among those kept when the k lowest scores are rejected,
    k from 0 to floor(rejected x n); its area is the mean of its points. The ratio is (area - random) /
    (oracle - random): random rejection keeps the base rate, the oracle rejects wrong answers first. Among
    equal scores the order is random in expectation. NaN where all answers are right, or all wrong.
    """
    s, r = _pair(scores, right)
    n, base = len(s), float(r.mean()) if len(s) else float("nan")
    if not n or base in (0.0, 1.0):
        return float("nan")
    last = int(rejected * n)
    area = _kept_share(s, r)[: last + 1].mean()
    oracle = _kept_share(r.astype(np.float64), r)[: last + 1].mean()
    return float((area - base) / (oracle - base)) if oracle > base else float("nan")


def _kept_share(s: Floats, r: NDArray[np.bool_]) -> Floats:
    """Returns the expected share of right answers after 0 to n - 1 rejections of the lowest scores, [n]."""
    _, group, sizes = np.unique(s, return_inverse=True, return_counts=True)
    in_group = np.bincount(group, weights=r)
    # among equal scores each answer is as likely right as the group
    expected = np.repeat(in_group / sizes, sizes)
    kept = expected[::-1].cumsum()[::-1]
    return np.asarray(kept / np.arange(len(s), 0, -1))


def within_prompts(scores: ArrayLike, right: ArrayLike, prompts: Sequence[str]) -> float:
    """Returns how often a right reply has a higher score than a wrong reply to the same prompt.

    All pairs of one right and one wrong reply of a prompt, pooled over the prompts; ties count one half; NaN
    where no prompt has both.
    """
    s, r = _pair(scores, right)
    labels = np.asarray(prompts)
    won, pairs = 0.0, 0
    for prompt in np.unique(labels):
        chosen = labels == prompt
        count = int(r[chosen].sum()) * int((~r[chosen]).sum())
        if count:
            won += auroc(s[chosen], r[chosen]) * count
            pairs += count
    return won / pairs if pairs else float("nan")


def ece(probabilities: ArrayLike, happened: ArrayLike, bins: int = BINS) -> float:
    """Returns the expected calibration error with bins of equal mass.

    The sorted probabilities are cut into ``bins`` runs whose sizes differ by at most one. The error is the
    mean over the bins, weighted by size, of |mean probability - share that happened|; an empty bin counts
    nothing.
    Equal probabilities share what happened to all of them, so their order does not matter.
    """
    p, h = _pair(probabilities, happened)
    if not len(p):
        return float("nan")
    order = np.argsort(p, kind="stable")
    _, group, sizes = np.unique(p, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, weights=h) / sizes)[group]
    total = 0.0
    for places in np.array_split(order, bins):
        if len(places):
            total += len(places) * abs(float(p[places].mean()) - float(shared[places].mean()))
    return total / len(p)


def brier(probabilities: ArrayLike, happened: ArrayLike) -> tuple[float, float]:
    """Returns the mean squared error of probabilities, and that of always saying the base rate."""
    p, h = _pair(probabilities, happened)
    if not len(p):
        return float("nan"), float("nan")
    base = float(h.mean())
    return float(((p - h) ** 2).mean()), base * (1 - base)
