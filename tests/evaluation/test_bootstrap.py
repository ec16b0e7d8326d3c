"""The bootstrap against plain float64 computations, known distributions and symmetries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_eval.bootstrap import (
    Interval,
    draw_counts,
    holm,
    interval_of,
    intervals,
    resampled_means,
    sign_flips,
    strata_of,
)
from entropick_eval.grids import in_points

from .support import PATIENT


def test_counts_keep_the_size_of_every_stratum() -> None:
    counts = np.concatenate(list(draw_counts([0, 1, 0, 1, 1], 600, 3)))
    assert counts.shape == (600, 5)
    assert (counts[:, [0, 2]].sum(1) == 2).all()
    assert (counts[:, [1, 3, 4]].sum(1) == 3).all()


def test_resampled_means_are_the_means_of_the_drawn_items() -> None:
    values = np.array([[1.0, 5.0], [2.0, np.nan], [4.0, 1.0]])
    drawn = resampled_means(values, [0, 0, 1], 300, 7)
    for row, counts in zip(drawn, np.concatenate(list(draw_counts([0, 0, 1], 300, 7))), strict=True):
        items = [at for at in range(3) for _ in range(int(counts[at]))]
        assert row[0] == pytest.approx(sum(values[at, 0] for at in items) / 3)
        known = [values[at, 1] for at in items if at != 1]
        assert row[1] == pytest.approx(sum(known) / len(known))


def test_all_resamples_of_three_items_have_their_probabilities() -> None:
    """All 27 resamples of (0, 0, 1): the mean is k / 3 with the binomial probability of k of 3 at 1/3."""
    exact = {0: 8 / 27, 1: 12 / 27, 2: 6 / 27, 3: 1 / 27}
    listed = [sum(draw) for draw in itertools.product((0, 0, 1), repeat=3)]
    assert {k: listed.count(k) / 27 for k in range(4)} == pytest.approx(exact)
    drawn = resampled_means(np.array([[0.0], [0.0], [1.0]]), [0, 0, 0], 20_000, 0)[:, 0]
    for k, probability in exact.items():
        assert (np.round(drawn * 3) == k).mean() == pytest.approx(probability, abs=0.012)


def test_the_interval_of_a_share_is_near_the_binomial_one() -> None:
    values = np.array([[1.0]] * 300 + [[0.0]] * 700)
    (found,) = intervals(values, [0] * 1000)
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.estimate == 0.3
    assert found.n == 1000
    assert found.low == pytest.approx(0.3 - spread, abs=0.002)
    assert found.high == pytest.approx(0.3 + spread, abs=0.002)


def test_strata_take_their_own_differences_out_of_the_interval() -> None:
    values = np.array([[1.0]] * 50 + [[0.0]] * 50)
    (apart,) = intervals(values, [0] * 50 + [1] * 50)
    (together,) = intervals(values, [0] * 100)
    assert (apart.low, apart.high) == (0.5, 0.5)
    assert together.high - together.low > 0.15


def test_a_difference_without_any_is_not_told_apart() -> None:
    (found,) = intervals(np.zeros((40, 1)), [0] * 40)
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)
    assert sign_flips(np.zeros((40, 1))) == [1.0]


def test_nothing_known() -> None:
    (found,) = intervals(np.full((4, 1), np.nan), [0] * 4, 100)
    assert found.n == 0
    assert np.isnan(found.low)
    assert interval_of(np.array([]), np.array([])).n == 0


@PATIENT
@given(st.lists(st.booleans(), min_size=4, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_items_moves_an_interval_by_noise_alone(marks: list[bool], random: object) -> None:
    values = np.array(marks, dtype=float)[:, None]
    (one,), (other,) = (
        intervals(values, [0] * len(marks), 2000),
        intervals(values[::-1], [0] * len(marks), 2000),
    )
    assert one.estimate == pytest.approx(other.estimate)
    assert abs(one.low - other.low) <= 0.06 + 1 / len(marks)


def test_duplicated_items_narrow_the_interval_by_the_square_root() -> None:
    values = (np.arange(100) % 3 == 0).astype(float)[:, None]
    (one,) = intervals(values, [0] * 100)
    (four,) = intervals(np.tile(values, (4, 1)), [0] * 400)
    assert four.estimate == pytest.approx(one.estimate)
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    "column", [[1.0] * 5, [1.0, 1.0, 1.0, -1.0, 0.0], [0.5, 0.25, -0.25, 1.0], [1.0, -1.0], [0.3, 0.2, 0.1]]
)
def test_random_signs_are_the_share_of_all_signs(column: list[float]) -> None:
    reach = [
        abs(sum(s * v for s, v in zip(signs, column, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(column))
    ]
    exact = sum(one >= abs(sum(column)) - 1e-9 for one in reach) / len(reach)
    (found,) = sign_flips(np.array(column)[:, None], 20_000)
    assert found == pytest.approx(exact, abs=0.015)


def test_random_signs_leave_out_what_is_missing() -> None:
    values = np.array([[1.0, 1.0], [1.0, np.nan], [1.0, np.nan], [1.0, np.nan]])
    first, second = sign_flips(values, 20_000)
    assert first == pytest.approx(1 / 8, abs=0.01)
    assert second == 1.0
    assert sign_flips(np.full((3, 1), np.nan)) == [1.0]


def test_small_families_are_one_stratum() -> None:
    assert strata_of(["a"] * 5 + ["b"] * 5) == [1] * 5 + [2] * 5
    assert strata_of(["a"] * 5 + list("bcdef")) == [1] * 5 + [0] * 5
    assert strata_of(["a"] * 5 + ["b"] * 6 + ["c"]) == [0] * 5 + [1] * 6 + [0]
    assert strata_of(list("abc")) == [0, 0, 0]
    assert strata_of([]) == []


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@PATIENT
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_between_the_raw_values_and_bonferronis(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, found in zip(p, adjusted, strict=True):
        assert raw <= found <= min(1.0, raw * len(p)) or found == pytest.approx(max(adjusted))
    assert [found for _, found in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)


def test_a_bound_of_rounding_noise_below_0_is_0() -> None:
    """Whether a sum of differences is 0 or -1e-17 depends on the processor; a page must not."""
    assert in_points(Interval(0.032, -1e-17, 0.065, 40)) == "+3.2 [+0.0, +6.5]"
