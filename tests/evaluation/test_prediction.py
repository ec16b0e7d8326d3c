"""Scores that predict right answers, against plain definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropick_eval.prediction import auroc, brier, ece, prr, within_prompts

from .support import PATIENT

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans()), min_size=2, max_size=8)


def plain_auroc(scores: list[float], right: list[bool]) -> float:
    pairs = [
        (a, b)
        for a, x in zip(scores, right, strict=True)
        if x
        for b, y in zip(scores, right, strict=True)
        if not y
    ]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs) if pairs else math.nan


def plain_prr(scores: list[float], right: list[bool]) -> float:
    """The mean over every order of equal scores of the curve's area, against random and oracle."""
    n, last = len(scores), len(scores) // 2

    def area(key: list[float]) -> float:
        orders = [
            o
            for o in itertools.permutations(range(n))
            if all(key[a] <= key[b] for a, b in itertools.pairwise(o))
        ]
        return sum(
            sum(sum(right[i] for i in order[k:]) / (n - k) for k in range(last + 1)) / (last + 1)
            for order in orders
        ) / len(orders)

    base = sum(right) / n
    oracle = area([float(mark) for mark in right])
    return (area(scores) - base) / (oracle - base)


@PATIENT
@given(ROWS)
def test_auroc_is_the_share_of_pairs(rows: list[tuple[float, bool]]) -> None:
    scores, right = map(list, zip(*rows, strict=True))
    assert auroc(scores, right) == pytest.approx(plain_auroc(scores, right), nan_ok=True)


@PATIENT
@given(ROWS.filter(lambda rows: len(rows) <= 6))
def test_prr_is_the_mean_over_the_orders_of_ties(rows: list[tuple[float, bool]]) -> None:
    scores, right = map(list, zip(*rows, strict=True))
    if all(right) or not any(right):
        assert math.isnan(prr(scores, right))
    else:
        assert prr(scores, right) == pytest.approx(plain_prr(scores, right))


def test_prr_by_hand() -> None:
    # rejecting none, one, two of four keeps 2/4, 2/3, 2/2 right: as good as the oracle
    assert prr([3, 4, 1, 2], [True, True, False, False]) == pytest.approx(1)
    # the other way round: 2/4, 1/3, 0/2
    assert prr([1, 2, 3, 4], [True, True, False, False]) == pytest.approx(
        (5 / 18 - 1 / 2) / (13 / 18 - 1 / 2)
    )
    assert prr([1, 1, 1, 1], [True, True, False, False]) == pytest.approx(0)


def test_duplicates_and_permutations_change_nothing() -> None:
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.5
    order = rng.permutation(40)
    p = 1 / (1 + np.exp(-scores))
    for measure in (auroc, prr):
        assert measure(scores[order], right[order]) == pytest.approx(measure(scores, right))
    assert auroc(np.tile(scores, 3), np.tile(right, 3)) == pytest.approx(auroc(scores, right))
    assert ece(p[order], right[order]) == pytest.approx(ece(p, right))
    assert brier(np.tile(p, 2), np.tile(right, 2)) == pytest.approx(brier(p, right))


def test_within_prompts_by_hand() -> None:
    # prompt a: 1 of 2 pairs; prompt b: 1 of 1; prompt c has no wrong reply
    scores = [1, 2, 3, 5, 4, 9]
    right = [True, False, False, True, False, True]
    assert within_prompts([2, 1, 3, 5, 4, 9], right, list("aaabbc")) == pytest.approx(2 / 3)
    assert within_prompts(scores, right, list("aaabbc")) == pytest.approx(1 / 3)
    assert math.isnan(within_prompts([1, 2], [True, True], ["a", "a"]))


def test_ece_by_hand() -> None:
    # two bins of two: |.15 - 0| and |.85 - .5|
    assert ece([0.1, 0.2, 0.8, 0.9], [False, False, True, False], bins=2) == pytest.approx((0.15 + 0.35) / 2)
    # sizes differ by one at most: (.1, .2), (.9)
    assert ece([0.9, 0.1, 0.2], [True, False, False], bins=2) == pytest.approx((2 * 0.15 + 0.1) / 3)
    assert ece([0.5] * 4, [True, False, True, False], bins=2) == pytest.approx(0)
    assert math.isnan(ece([], []))


def test_brier_by_hand() -> None:
    found, base = brier([0.8, 0.4], [True, False])
    assert found == pytest.approx((0.04 + 0.16) / 2)
    assert base == pytest.approx(0.25)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="one length"):
        auroc([1.0], [True, False])
    with pytest.raises(ValueError, match="NaN"):
        ece([math.nan], [True])
