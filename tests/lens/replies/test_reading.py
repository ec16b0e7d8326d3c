"""Readers, folds, areas and permutations against brute force and known answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from entropick_lens.replies import reading
from entropick_lens.replies.judging import judge

RNG = np.random.default_rng(7)


def pairs_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Counts pairs one by one."""
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[positive] for b in scores[~positive]]
    return sum(won) / len(won)


def test_area_counts_pairs_and_ties_half() -> None:
    assert reading.auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))[0] == 0.75
    scores = RNG.integers(0, 6, 60) / 5.0
    positive = RNG.random(60) < 0.4
    assert reading.auc(scores, positive)[0] == pytest.approx(pairs_auc(scores, positive), abs=1e-12)
    # a text that counts twice is there twice
    counts = RNG.integers(0, 3, 60)
    again = np.repeat(np.arange(60), counts)
    found = reading.auc(scores, positive, counts[None].astype(float))[0]
    assert found == pytest.approx(pairs_auc(scores[again], positive[again]), abs=1e-12)
    assert np.isnan(reading.auc(scores, np.zeros(60, dtype=bool))[0])


def test_area_of_several_classes_is_the_mean_of_each_against_the_rest() -> None:
    classes = RNG.integers(0, 3, 50)
    scores = RNG.random((50, 3))
    wanted = np.mean([pairs_auc(scores[:, c], classes == c) for c in range(3)])
    assert reading.macro_auc(scores, classes)[0] == pytest.approx(wanted, abs=1e-12)
    strata = np.repeat([0, 1, -1], [20, 20, 10])
    inside = [
        np.mean([pairs_auc(scores[own][:, c], classes[own] == c) for c in range(3)])
        for own in (np.arange(20), np.arange(20, 40))
    ]
    assert reading.within_auc(scores, classes, strata)[0] == pytest.approx(np.mean(inside), abs=1e-12)


def test_folds_keep_groups_whole_and_classes_even() -> None:
    classes = np.repeat([0, 1, 2], [100, 60, 40])
    single = reading.stratified_folds(classes, [str(i) for i in range(200)], 0)
    for fold in range(10):
        assert Counter(classes[single == fold].tolist()) == {0: 10, 1: 6, 2: 4}
    groups = [f"{c}-{i // 4}" for i, c in enumerate(classes)]
    folds = reading.stratified_folds(classes, groups, 0)
    for name in set(groups):
        assert len({int(f) for f, g in zip(folds, groups, strict=True) if g == name}) == 1
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 8
    assert (reading.stratified_folds(classes, groups, 1) != folds).any()


def test_neighbours_are_those_of_a_loop_and_never_of_the_own_fold() -> None:
    features = RNG.normal(size=(80, 5))
    folds = RNG.integers(0, 4, 80)
    found = reading.nearest(features, folds, 7)
    for i in range(80):
        far = [
            (float(((features[i] - features[j]) ** 2).sum()), j) for j in range(80) if folds[j] != folds[i]
        ]
        assert found[i].tolist() == [j for _, j in sorted(far)[:7]]
    weights = reading.neighbour_weights(features, folds, 7)
    assert (weights.sum(1) == 7).all()
    with pytest.raises(ValueError, match="fewer than 79 texts"):
        reading.nearest(features, folds, 79)


def test_equal_texts_are_near_in_their_order() -> None:
    features = np.repeat(RNG.normal(size=(1, 6)) * 1e3, 8, axis=0)
    assert reading.nearest(features, np.arange(8) % 2, 3).tolist()[:2] == [[1, 3, 5], [0, 2, 4]]


def test_ridge_is_the_regression_on_the_other_folds() -> None:
    features = np.column_stack([RNG.normal(size=(50, 3)) * [1.0, 10.0, 0.1], np.full(50, 4.0)])
    folds = np.arange(50) % 5
    labels = RNG.random(50)
    scores = reading.ridge_weights(features, folds, 0.01) @ labels
    for fold in range(5):
        test, train = folds == fold, folds != fold
        mean, spread = features[train, :3].mean(0), features[train, :3].std(0)
        z = (features[train, :3] - mean) / spread
        beta = np.linalg.solve(
            z.T @ z + 0.01 * train.sum() * np.eye(3), z.T @ (labels[train] - labels[train].mean())
        )
        wanted = labels[train].mean() + (features[test, :3] - mean) / spread @ beta
        assert scores[test] == pytest.approx(wanted, abs=1e-5)


def test_scores_of_many_labellings_are_those_of_each() -> None:
    weights = reading.neighbour_weights(RNG.normal(size=(30, 2)), np.arange(30) % 3, 5)
    classes = RNG.integers(0, 3, (4, 30))
    classes[:, 0] = 2
    found = reading.scores_of(weights, classes)
    assert found.shape == (4, 30, 3)
    for one, own in zip(found, classes, strict=True):
        assert (one == reading.scores_of(weights, own)).all()
        for i in range(30):
            votes = np.bincount(own[np.flatnonzero(weights[i])], minlength=3)
            assert one[i].tolist() == votes.tolist()


def test_permutations_move_whole_groups_of_equal_size_within_strata() -> None:
    groups = ["a", "a", "b", "b", "c", "d", "e", "e"]
    strata = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    orders = reading.permutations(groups, strata, 200, 0)
    assert (np.sort(orders, axis=1) == np.arange(8)).all()
    assert {tuple(order[:4]) for order in orders.tolist()} == {(0, 1, 2, 3), (2, 3, 0, 1)}
    assert {tuple(order[4:6]) for order in orders.tolist()} == {(4, 5), (5, 4)}
    assert (orders[:, 6:] == [6, 7]).all()


def test_resamples_draw_groups() -> None:
    counts = reading.resampled_counts(["a", "a", "b", "c"], 500, 0)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, [0, 2, 3]].sum(1) == 3).all()
    assert counts.mean(0) == pytest.approx(np.ones(4), abs=0.15)


def _sets(features: np.ndarray) -> dict[str, np.ndarray]:
    names = ("layers", "signals", "signals and layers", "lengths")
    return dict.fromkeys(names, features)


def test_separable_classes_reach_an_area_of_one() -> None:
    classes = np.repeat(["one", "two", "three"], 40)
    centres = {"one": [0.0, 0.0], "two": [9.0, 0.0], "three": [0.0, 9.0]}
    features = np.array([centres[c] for c in classes]) + RNG.normal(size=(120, 2))
    found = judge("task", classes.tolist(), [str(i) for i in range(120)], _sets(features), 100, 0)
    assert not isinstance(found, str)
    assert found.classes == ("one", "three", "two")
    assert found.neighbours == 29
    for one in found.readings:
        assert one.area.value == pytest.approx(1.0, abs=1e-3)
        assert one.area.low > 0.99
        # two near texts of other folds vote for each other, which pulls a positive below a negative a little
        assert 0.4 < one.area.permuted < 0.51
        assert one.area.permuted_high < 0.6
        assert one.area.p == pytest.approx(1 / 101)
    assert np.diag(np.array(found.confusion)) == pytest.approx(np.ones(3))


def test_features_that_know_nothing_lie_at_a_half_within_the_interval() -> None:
    features = RNG.normal(size=(300, 4))
    classes = RNG.permutation(np.repeat(["no", "yes"], 150)).tolist()
    found = judge("correct", classes, [str(i) for i in range(300)], _sets(features), 200, 0)
    assert not isinstance(found, str)
    for one in found.readings:
        assert one.area.low < 0.5 < one.area.high
        assert one.area.p > 0.01
        assert one.area.value < one.area.permuted_high + 0.06
    assert [one.gain is None for one in found.readings] == [False, False, True, True] + [False] * 4
    assert all(one.gain.value == 0.0 for one in found.readings if one.gain is not None)


def test_what_only_tells_tasks_apart_tells_nothing_inside_them() -> None:
    """Two tasks, one of which is mostly solved: a feature of the task looks as if it knew what is correct."""
    tasks = np.repeat(["easy", "hard"], 200)
    correct = np.concatenate([RNG.random(200) < 0.85, RNG.random(200) < 0.15])
    features = (tasks == "easy")[:, None] * 4.0 + RNG.normal(size=(400, 2))
    found = judge(
        "correct",
        ["yes" if c else "no" for c in correct],
        [str(i) for i in range(400)],
        _sets(features),
        200,
        0,
        tasks.tolist(),
    )
    assert not isinstance(found, str)
    assert found.tasks_within == 2
    for one in found.readings:
        assert one.within is not None
        assert one.area.value > 0.75
        assert one.area.p == pytest.approx(1 / 201)
        assert one.within.low < 0.5 < one.within.high
        assert one.within.p > 0.01


def test_a_class_of_one_group_is_not_learnt_from_itself() -> None:
    """Ten texts of one template each: with whole templates left out nothing is left to recognise them by."""
    groups = np.repeat(np.arange(20), 10)
    classes = np.array(["yes" if g % 2 else "no" for g in groups])
    features = np.eye(20)[groups] * 10.0 + RNG.normal(size=(200, 20)) * 0.01
    loose = judge("correct", classes.tolist(), [str(i) for i in range(200)], _sets(features), 100, 0)
    whole = judge("correct", classes.tolist(), [str(g) for g in groups], _sets(features), 100, 0)
    assert not isinstance(loose, str)
    assert not isinstance(whole, str)
    assert loose.readings[0].area.value > 0.9
    assert whole.readings[0].area.value < 0.75


def test_labels_that_cannot_be_judged_say_why() -> None:
    features = _sets(RNG.normal(size=(30, 2)))
    few = judge("format", ["a"] * 25 + ["b"] * 5, [str(i) for i in range(30)], features, 100, 0)
    assert few == "format: fewer than two values with 10 texts each"
    grouped = judge("format", ["a", "b"] * 15, [str(i // 10) for i in range(30)], features, 100, 0)
    assert grouped == "format: 3 groups, of which 10 folds cannot be made"
