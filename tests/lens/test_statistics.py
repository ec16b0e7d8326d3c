"""Correlations, permutations within layers, Holm's correction and regressions against known answers."""

import math

import numpy as np
import pytest

from entropick_lens.statistics import correlation, holm, pearson, regress

from .support import GOLDEN

PEARSON = GOLDEN["11_head_geometry"]["pearson"]


def test_pearson() -> None:
    x, y = (np.array(PEARSON[name]) for name in "xy")
    assert pearson(x, y) == pytest.approx(PEARSON["r"], rel=1e-12)
    assert pearson(x, -3 * x + 1) == -1.0


@pytest.mark.parametrize("x", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0, 0.0]])
def test_a_figure_that_does_not_vary_has_no_correlation(x: list[float]) -> None:
    assert pearson(np.array(x), np.array([1.0, 2.0, 3.0])) is None
    assert correlation(np.array(x), np.array([1.0, 2.0, 4.0]), np.zeros(3), 100, 0).r is None


def test_a_rank_and_its_inverse_hold_the_same_information() -> None:
    """r(x, 1/x) = -.92 for ranks spread evenly from 4 to 20, whose moments are known."""
    low, high = 4.0, 20.0
    mean, inverse = (low + high) / 2, math.log(high / low) / (high - low)
    deviations = math.sqrt((high - low) ** 2 / 12) * math.sqrt(1 / (low * high) - inverse**2)
    exact = (1 - mean * inverse) / deviations
    assert exact == pytest.approx(-0.92, abs=0.002)
    x = np.linspace(low, high, 4001)
    assert pearson(x, 1 / x) == pytest.approx(exact, abs=1e-3)


def test_permutation_within_layers_is_exact() -> None:
    """Two layers of three heads have 36 orders, of which the shares are known."""
    x = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    y = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    found = correlation(x, y, np.array([0, 0, 0, 1, 1, 1]), 20_000, 0)
    # r is as far from the mean in one other order, the reversal of both
    assert found.p is not None
    assert found.p == pytest.approx(2 / 36, abs=0.006)
    within = pearson(np.array([-1.0, 0, 1, -10, 0, 10]), np.array([-1.0, 0, 1, -1, 0, 1]))
    assert found.within == pytest.approx(within)
    assert found.low is None  # two layers cannot be drawn again


def test_a_difference_between_layers_alone_is_no_relation_of_heads() -> None:
    rng = np.random.default_rng(1)
    layers = np.repeat(np.arange(12), 8)
    x, y = layers + rng.normal(size=96) * 0.3, layers + rng.normal(size=96) * 0.3
    found = correlation(x, y, layers, 2000, 0)
    assert found.r is not None
    assert found.within is not None
    assert found.p is not None
    assert found.r > 0.95
    assert abs(found.within) < 0.3
    assert found.p > 0.05
    true = correlation(x, x + rng.normal(size=96) * 0.1, layers, 2000, 0)
    assert true.p == pytest.approx(1 / 2001)


def test_p_is_even_where_there_is_nothing() -> None:
    rng = np.random.default_rng(2)
    layers = np.repeat(np.arange(6), 6)
    found = [
        correlation(rng.normal(size=36), rng.normal(size=36), layers, 200, seed).p for seed in range(200)
    ]
    values = np.array(found, dtype=float)
    assert 0.4 < values.mean() < 0.6
    assert 0.01 < (values < 0.05).mean() < 0.1


def test_the_interval_covers_the_true_correlation() -> None:
    rng = np.random.default_rng(3)
    layers = np.repeat(np.arange(30), 9)
    covered = 0
    for seed in range(60):
        x = rng.normal(size=270)
        found = correlation(x, 0.5 * x + np.sqrt(0.75) * rng.normal(size=270), layers, 300, seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low < 0.5 < found.high
    assert covered > 50


def test_holm() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_regression_finds_the_coefficients_and_tells_which_columns_repeat_each_other() -> None:
    rng = np.random.default_rng(4)
    layers = np.repeat(np.arange(20), 9)
    a, b = rng.normal(size=180), rng.normal(size=180)
    y = 3 + 2 * a - b + 0.1 * rng.normal(size=180)
    found = regress(y, {"a": a, "b": b, "flat": np.ones(180)}, layers)
    assert found is not None
    assert [term.name for term in found.terms] == ["a", "b"]
    design = np.column_stack([np.ones(180), a, b])
    plain = np.linalg.lstsq(design, y, rcond=None)[0]
    assert found.terms[0].coefficient == pytest.approx(plain[1] * a.std() / y.std())
    assert found.terms[1].coefficient == pytest.approx(plain[2] * b.std() / y.std())
    assert found.r2 == pytest.approx(1 - ((y - design @ plain) ** 2).mean() / y.var())
    assert found.r2_left_out is not None
    assert 0.98 < found.r2_left_out < found.r2
    assert found.terms[0].inflation == pytest.approx(1.0, abs=0.05)
    assert found.terms[0].low is not None
    assert found.terms[0].high is not None
    assert found.terms[0].low < found.terms[0].coefficient < found.terms[0].high
    twice = regress(y, {"a": a, "also a": a + 0.1 * rng.normal(size=180)}, layers)
    assert twice is not None
    assert twice.terms[0].inflation is not None
    assert twice.terms[0].inflation > 50
    same = regress(y, {"a": a, "double": 2 * a}, layers)
    assert same is not None
    assert same.terms[0].inflation is None


def test_noise_predicts_no_layer_that_was_left_out() -> None:
    rng = np.random.default_rng(5)
    columns = {str(i): rng.normal(size=24) for i in range(4)}
    found = regress(rng.normal(size=24), columns, np.repeat(np.arange(4), 6))
    assert found is not None
    assert found.r2 > 0
    assert found.r2_left_out is not None
    assert found.r2_left_out < 0
    assert regress(np.ones(24), columns, np.repeat(np.arange(4), 6)) is None
