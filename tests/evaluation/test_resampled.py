"""Measures of all resamples at once against the measures of items that are written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entropick_eval.bootstrap import draw_counts
from entropick_eval.prediction import auroc, prr
from entropick_eval.resampled import aurocs, bootstrap_of, mean_aurocs, prrs


def drawn(n: int, strata: list[int], resamples: int = 300) -> np.ndarray:
    return np.concatenate(list(draw_counts(strata, resamples, n)))


@pytest.mark.parametrize("values", [3, 10, 1000])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_measures_are_those_of_the_items_written_out(n: int, values: int) -> None:
    rng = np.random.default_rng(n * values)
    scores = rng.integers(0, values, n) / 7
    right = rng.random(n) < 0.6
    counts = drawn(n, [0] * n)
    places = [np.repeat(np.arange(n), row.astype(int)) for row in counts]
    written_out = [auroc(scores[at], right[at]) for at in places]
    np.testing.assert_allclose(aurocs(scores, right, counts), written_out, rtol=0, atol=1e-12)
    written_out = [prr(scores[at], right[at]) for at in places]
    np.testing.assert_allclose(prrs(scores, right, counts), written_out, rtol=0, atol=1e-9)
    assert n < 60 or np.isfinite(written_out).mean() > 0.9


def test_a_group_without_both_kinds_is_left_out_of_the_mean() -> None:
    scores, right = np.arange(6.0), np.array([False, True, False, True, True, True])
    first, second = np.arange(6) < 4, np.arange(6) >= 4
    counts = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 0, 2, 1, 1]], dtype=float)
    found = mean_aurocs(scores, right, [first, second], counts)
    assert found[0] == pytest.approx(auroc(scores[:4], right[:4]))
    assert math.isnan(found[1])


def test_a_bootstrap_of_a_measure() -> None:
    scores = np.arange(60.0)
    right = np.arange(60) % 7 > np.arange(60) // 12
    estimate, low, high = bootstrap_of(lambda counts: aurocs(scores, right, counts), [0] * 60, 400)
    assert estimate == pytest.approx(auroc(scores, right))
    assert low < estimate < high
    without = bootstrap_of(lambda counts: np.full(len(counts), math.nan), [0, 0], 10)
    assert all(math.isnan(figure) for figure in without)
