"""Tables of arms, equal tokens, the curve of accuracy against tokens: cases computed by hand."""

from __future__ import annotations

import math

import pytest

from entropick_eval.comparison import Scored, at_equal_tokens, pareto, tables


def arm(marks: str, spent: float = 10.0) -> dict[str, Scored]:
    """1 right, 0 wrong, - without a reply; items are numbered from 0."""
    return {str(at): Scored(float(mark), spent, spent / 2) for at, mark in enumerate(marks) if mark != "-"}


FAMILIES = {"0": "a", "1": "a", "2": "a", "3": "b", "4": "b"}


def test_a_table_by_hand() -> None:
    arms = {"base": arm("10010"), "new": arm("11011", 30.0), "part": arm("1-0-1")}
    pooled, first, second = tables(arms, FAMILIES, "base", resamples=500)
    assert (pooled.family, first.family, second.family) == ("all", "a", "b")
    assert (pooled.n, first.n, second.n) == (5, 3, 2)
    base, new, part = pooled.rows
    assert base.difference is None
    assert base.holm is None
    assert (base.accuracy.estimate, new.accuracy.estimate) == (0.4, 0.8)
    assert new.difference is not None
    assert new.difference.estimate == pytest.approx(0.4)
    assert (new.spent, new.tokens, new.relative) == (30.0, 15.0, 3.0)
    assert part.difference is not None
    # of items 0, 2 and 4 alone: 1 - 1, 0 - 0, 1 - 0
    assert part.difference.estimate == pytest.approx(1 / 3)
    assert (part.difference.n, part.missing) == (3, 2)
    assert base.p is None
    assert new.p is not None
    # two of five items differ, both for the better: signs agree in half of the cases
    assert new.p == pytest.approx(0.5, abs=0.1)
    assert new.holm is not None
    assert part.holm is not None
    assert new.holm <= part.holm


def test_pairing_makes_the_interval_narrower_than_either_arm() -> None:
    marks = "10" * 50
    better = "1" + marks[1:98] + "11"
    found = tables({"base": arm(marks), "new": arm(better)}, {str(n): "a" for n in range(100)}, "base")
    difference = found[0].rows[1].difference
    assert difference is not None
    assert difference.estimate == pytest.approx(0.01)
    assert difference.high - difference.low < 0.05
    accuracy = found[0].rows[1].accuracy
    assert accuracy.high - accuracy.low > 0.15


def test_equal_tokens_interpolate_on_the_curve() -> None:
    families = {str(n): "a" for n in range(4)}
    arms = {
        "one": arm("1000", 10),
        "five": arm("1110", 50),
        "new": arm("1111", 30),
        "dear": arm("1111", 60),
        "same": arm("1110", 50),
    }
    curves = {"votes": ["five", "one"]}
    pairs = [(name, "votes") for name in ("new", "dear", "same")]
    found, same = at_equal_tokens(pairs, arms, curves, families, resamples=200)  # dear is beyond the curve
    # half way between 1/4 and 3/4
    assert found.difference.estimate == pytest.approx(0.5)
    assert found.spent == 30
    assert (found.arm, same.arm) == ("new", "same")
    assert (same.difference.estimate, same.difference.low, same.difference.high) == (0.0, 0.0, 0.0)


def test_equal_tokens_look_at_items_that_all_have() -> None:
    arms = {"one": arm("1-00", 10), "five": arm("1110", 50), "new": arm("-111", 50)}
    curves = {"votes": ["one", "five"]}
    families = {str(n): "a" for n in range(4)}
    (found,) = at_equal_tokens([("new", "votes")], arms, curves, families, resamples=100)
    assert found.difference.n == 2


def test_pareto_by_hand() -> None:
    points = {"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (3.0, 0.7), "d": (3.0, 0.6), "e": (1.0, 0.5)}
    assert pareto(points) == ["a", "e", "c"]
    assert pareto({}) == []


def test_an_arm_without_any_reply_in_a_family_has_no_figures_there() -> None:
    found = tables({"base": arm("10010"), "part": arm("111--")}, FAMILIES, "base", resamples=100)
    row = found[2].rows[1]
    assert row.accuracy.n == 0
    assert math.isnan(row.accuracy.estimate)
    assert row.missing == 2
