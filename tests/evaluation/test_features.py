"""Features of a reply, computed by hand."""

from __future__ import annotations

import pytest

from entropick_eval.features import answer_features, features, lowest_group, slope


def test_features_by_hand() -> None:
    found = features({"surprisal": [1.0, 3.0, 0.0, 2.0, 1.0], "logits_entropy": [2.0, 1.0, 0.0, 2.0, 3.0]})
    assert found == pytest.approx(
        {
            "mean_logprob": -1.4,
            "sum_logprob": -7,
            "lowest_logprob": -3,
            "lowest_group": -1.5,
            # distances from the middle -2..2 times -1, -3, 0, -2, -1 over 10, times 4
            "slope": (2 + 3 - 2 - 2) / 10 * 4,
            "mean_entropy": 1.6,
            "max_entropy": 3,
            "first_entropy": 2,
            "late_entropy": 2,
            "mean_excess": (1 - 2 + 0 + 0 + 2) / 5,
            "lowest_excess": -2,
            "lowest_excess_group": -0.25,
        }
    )


def test_what_was_not_measured_is_absent() -> None:
    assert features({}) == {}
    assert set(features({"surprisal": [None, 1.0]})) == {
        "mean_logprob",
        "sum_logprob",
        "lowest_logprob",
        "lowest_group",
        "slope",
    }
    assert (
        features({"surprisal": [None, 1.0], "logits_entropy": [1.0, None]})
        .keys()
        .isdisjoint({"lowest_excess"})
    )


def test_groups_and_slopes_of_few_values() -> None:
    assert lowest_group([1.0, 3.0]) == 2
    assert slope([5.0]) == 0
    assert slope([1.0, 3.0]) == pytest.approx(2)
    assert slope([0.0, 1.0, 2.0, 3.0]) == pytest.approx(3)


def test_features_of_the_answers_tokens() -> None:
    # "It is", " Par", "is", "." with the answer "Paris"
    signals = {"surprisal": [1.0, 2.0, 4.0, 8.0], "offset": [0, 5, 9, 11]}
    found = answer_features(signals, 6, 11, 12)
    assert found == pytest.approx({"answer_sum": -6, "answer_mean": -3, "answer_prefix_mean": -7 / 3})
    assert answer_features({"surprisal": [1.0]}, 0, 1, 1) == {}
    assert answer_features({**signals, "surprisal": [1.0, None, 4.0, 8.0]}, 6, 11, 12) == {}
