"""Reads labels off features out of fold: readers that are linear in the labels, folds, ROC-AUC, permutations.

A reader gives every text a weight for the label of every text that it may learn from. So labels that were
permuted, and classes, cost a product each and no new fit: k nearest neighbours have a vote each, and a ridge
regression is a matrix times the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FOLDS: Final = 10
RIDGE: Final = 0.01
"""the penalty of the ridge regression, a text, on features of variance 1"""


def stratified_folds(classes: Ints, groups: Sequence[str], seed: int, folds: int = FOLDS) -> Ints:
    """Returns the fold [n] of each text, so that groups stay whole and classes [n] spread evenly.

    Groups in a random order, those whose texts are of few classes and many first, go each to the fold where
    the shares of the classes come out most even, and of equal ones to the smallest. With groups of one text
    this is ordinary stratified cross-validation.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), int(classes.max()) + 1))
    np.add.at(counts, (member, classes), 1.0)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].std(1), kind="stable")]
    totals = counts.sum(0)
    filled = np.zeros((folds, counts.shape[1]))
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in order:
        uneven = [
            (float(((filled + (np.arange(folds) == f)[:, None] * counts[group]) / totals).std(0).mean()))
            for f in range(folds)
        ]
        sizes = filled.sum(1)
        best = min(range(folds), key=lambda f: (round(uneven[f], 12), sizes[f]))
        filled[best] += counts[group]
        fold_of[group] = best
    return fold_of[member]


def nearest(features: Floats, folds: Ints, k: int) -> Ints:
    """Returns the k nearest texts of other folds to each text, [n, k], by Euclid's distance of features [n,
    d].

    Of equal distances the text with the lower number is nearer. Raises ValueError where a fold leaves fewer.
    """
    n = len(features)
    if min(int((folds != f).sum()) for f in np.unique(folds)) < k:
        raise ValueError(f"fewer than {k} texts in the other folds")
    found = np.empty((n, k), dtype=np.int64)
    squares = (features**2).sum(1)
    for lo in range(0, n, 512):
        rows = slice(lo, min(lo + 512, n))
        far = squares[rows, None] + squares - 2.0 * features[rows] @ features.T
        # the product leaves differences of a rounding between equal texts
        far = np.where(far > 1e-9 * (squares[rows, None] + squares), far, 0.0)
        far[folds[rows, None] == folds] = np.inf
        found[rows] = np.argsort(far, axis=1, kind="stable")[:, :k]
    return found


def neighbour_weights(features: Floats, folds: Ints, k: int) -> Singles:
    """Returns the weights [n, n] of k nearest neighbours: a vote each, so that equal scores are equal to the
    bit."""
    weights = np.zeros((len(features), len(features)), dtype=np.float32)
    np.put_along_axis(weights, nearest(features, folds, k), 1.0, axis=1)
    return weights


def ridge_weights(features: Floats, folds: Ints, penalty: float = RIDGE) -> Singles:
    """Returns the weights [n, n] of a ridge regression on the other folds' features [n, d], standardised
    there.

    The constant is not penalised; the penalty is a text's. A feature that does not vary is left out.
    """
    n = len(features)
    weights = np.zeros((n, n), dtype=np.float32)
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        x = features[train]
        mean, spread = x.mean(0), x.std(0)
        varies = spread > 1e-12 * np.maximum(np.abs(mean), 1e-300)
        z = (x[:, varies] - mean[varies]) / spread[varies]
        new = (features[test][:, varies] - mean[varies]) / spread[varies]
        inner = z.T @ z + penalty * len(train) * np.eye(z.shape[1])
        weights[np.ix_(test, train)] = 1.0 / len(train) + new @ np.linalg.solve(inner, z.T)
    return weights


def auc(scores: Floats | Singles, positive: Bools, counts: Floats | None = None) -> Floats:
    """Returns the area under the ROC curve of scores [n] for each row of counts [B, n], how often a text
    counts.

    The share of pairs of a positive and another text in which the positive has the larger score, ties half.
    Returns [B] ([1] without counts), NaN where one side is empty.
    """
    times = np.ones((1, len(scores))) if counts is None else counts
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    hits = np.add.reduceat((times * positive)[:, order], starts, axis=1)
    others = np.add.reduceat((times * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(others, axis=1) - others
    pairs = hits.sum(1) * others.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((hits * (below + 0.5 * others)).sum(1) / pairs, dtype=np.float64)


def macro_auc(scores: Floats | Singles, classes: Ints, counts: Floats | None = None) -> Floats:
    """Returns the mean over classes of the AUC of each against the rest, [B]; of two classes that of the
    second.

    ``scores`` [n, C]; ``classes`` [n]; ``counts`` as in :func:`auc`. Resamples that lack a class leave it
    out.
    """
    count = scores.shape[1]
    if count == 2:
        return auc(scores[:, 1], classes == 1, counts)
    found = np.array([auc(scores[:, c], classes == c, counts) for c in range(count)])
    return np.asarray(np.nanmean(found, axis=0), dtype=np.float64)


def within_auc(scores: Floats | Singles, classes: Ints, strata: Ints, counts: Floats | None = None) -> Floats:
    """Returns the mean over strata of the AUC inside each, [B]; strata without both sides are left out.

    ``strata`` [n], -1 for texts that belong to none.
    """
    times = np.ones((1, len(classes))) if counts is None else counts
    found = [
        macro_auc(scores[own], classes[own], times[:, own])
        for s in np.unique(strata[strata >= 0])
        if len(np.unique(classes[(own := np.flatnonzero(strata == s))])) == scores.shape[1]
    ]
    return np.asarray(np.nanmean(np.array(found), axis=0), dtype=np.float64)


def scores_of(weights: Singles, classes: Ints) -> Singles:
    """Returns the scores [.., n, C] that weights [n, n] give to labels that are classes [.., n]."""
    count = int(classes.max()) + 1
    truth = np.moveaxis(np.eye(count, dtype=np.float32)[classes], -2, 0)
    found = weights @ truth.reshape(len(weights), -1)
    return np.moveaxis(found.reshape(truth.shape), 0, -2)


def resampled_counts(groups: Sequence[str], rounds: int, seed: int) -> Floats:
    """Returns how often each text is drawn when groups are drawn again, [rounds, n]."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1.0 / len(names)), size=rounds
    )
    return np.asarray(drawn[:, member], dtype=np.float64)


def permutations(groups: Sequence[str], strata: Ints, rounds: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns orders [rounds, n] that permute the labels of whole groups of equal size, within strata [n].

    So labels that hang together in a group stay together. A group's stratum is that of its texts; a group
    whose texts are of several is split by them.
    """
    rng = np.random.default_rng(seed)
    sets: dict[tuple[int, int], list[list[int]]] = {}
    blocks: dict[tuple[str, int], list[int]] = {}
    for i, (group, stratum) in enumerate(zip(groups, strata.tolist(), strict=True)):
        blocks.setdefault((group, stratum), []).append(i)
    for (_, stratum), rows in blocks.items():
        sets.setdefault((stratum, len(rows)), []).append(rows)
    orders = np.tile(np.arange(len(groups)), (rounds, 1))
    for same in sets.values():
        members = np.array(same)
        for turn in range(rounds):
            orders[turn, members.ravel()] = members[rng.permutation(len(members))].ravel()
    return orders
