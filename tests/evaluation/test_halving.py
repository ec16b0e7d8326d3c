"""Successive halving: growing sets of items, and the arms that survive."""

from __future__ import annotations

import itertools
from collections import Counter

from entropick_eval.comparison import Scored
from entropick_eval.halving import rungs, survivors

from .support import item


def arm(accuracy: float, spent: float) -> dict[str, Scored]:
    return {str(n): Scored(float(n < accuracy * 10), spent, spent) for n in range(10)}


def test_sets_double_and_hold_each_other_and_every_family() -> None:
    items = [item(n, family="a") for n in range(320)] + [item(1000 + n, family="b") for n in range(80)]
    sets = rungs(items, 8)
    assert [len(one) for one in sets] == [50, 100, 200, 400]
    for small, large in itertools.pairwise(sets):
        assert large[: len(small)] == small
        assert abs(Counter(one.family for one in small)["b"] - len(small) / 5) <= 1
    assert [len(one) for one in rungs(items, 1)] == [400]
    assert [len(one) for one in rungs(items[:60], 64)] == [60]
    assert [len(one) for one in rungs(items, 1000)] == [50, 100, 200, 400]


def test_the_better_half_and_the_baseline_survive() -> None:
    scored = {
        "base": arm(0.1, 10),
        "a": arm(0.5, 50),
        "b": arm(0.4, 50),
        "c": arm(0.3, 50),
        "d": arm(0.2, 50),
    }
    assert survivors(scored, ["base"]) == ["base", "a", "b"]


def test_a_cheap_arm_survives_beside_a_dear_better_arm() -> None:
    scored = {"base": arm(0.1, 10), "dear": arm(0.6, 90), "cheap": arm(0.4, 12), "bad": arm(0.5, 95)}
    assert survivors(scored, ["base"]) == ["base", "dear", "cheap"]


def test_arms_without_a_reply_do_not_survive() -> None:
    assert survivors({"base": arm(0.1, 10), "refused": {}, "a": arm(0.2, 10)}, ["base"]) == ["base", "a"]
