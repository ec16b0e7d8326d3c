"""The most probable tokens of a step before and after the sampler, and the filter that cut each.

In float64 on the host, for the rows that ask; the draw itself computes in float32, for all tokens. The
filters are those of ``entropick_kernels.sample.reference``, with its tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from entropick_kernels.sample.reference import FILTER_TOLERANCE

from .packed import TokenRow

MOST_PROBABLE: Final = 20
"""How many of the most probable tokens telemetry ``full`` tells of."""
Cut = Literal["temperature", "top_k", "top_p", "min_p"]
"""What left a token out of the draw. ``temperature``: at 0 there is only the most probable token."""
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ProbableToken(NamedTuple):
    """A token with its probability in the measured distribution and in the draw.

    ``final_probability``: after penalties, temperature and filters, 0 where a filter cut the token;
    ``cut_by``: that filter, None where the token could be drawn.
    """

    token_id: int
    probability: float
    final_probability: float
    cut_by: Cut | None


class Draw(NamedTuple):
    """The parameters of a draw: ``top_k`` <= 0, ``top_p`` >= 1 and ``min_p`` <= 0 are off."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float


class _Kept(NamedTuple):
    """The survivors of the filters, by the place of a token in the order of falling logits.

    ``by_top_k``, ``by_top_p``: places before which these two keep a token; ``floor``: the weight that min_p
    asks for; ``total``: the weight of all survivors.
    """

    by_top_k: int
    by_top_p: int
    floor: float
    total: float


def most_probable(
    logits: npt.NDArray[np.floating],
    draw: Draw,
    drawn: Sequence[int] = (),
    count: int = MOST_PROBABLE,
    penalised: npt.NDArray[np.floating] | None = None,
) -> tuple[ProbableToken, ...]:
    """Finds the ``count`` most probable tokens of a distribution before and after the sampler.

    ``logits`` [V], masked, neither NaN nor +inf; ``drawn``: token ids that are told of too, wherever they
    stand; ``penalised`` [V]: the logits after penalties, which the draw reads, None without any. Returns the
    tokens in order of falling probability, ties by token id, without masked tokens.
    """
    x = np.asarray(logits, np.float64)
    y = x if penalised is None else np.asarray(penalised, np.float64)
    best = int(y.argmax())
    plain = np.exp(x - x.max())
    z = float(plain.sum())
    order = [i for i in _order(x, count)[:count].tolist() if x[i] > -math.inf]
    listed = [*order, *sorted(set(drawn) - set(order), key=lambda i: (-x[i], i))]
    if draw.temperature <= 0:
        return tuple(
            ProbableToken(i, float(plain[i]) / z, float(i == best), None if i == best else "temperature")
            for i in listed
        )
    weights = np.exp((y - y[best]) / draw.temperature)
    kept = _filter(y, weights, draw, count)
    # the place of a token that is not among the first: as many as come before it
    known = len(order) if penalised is None else 0
    further = listed[known:]
    places = [*range(known), *(int((y > y[i]).sum() + (y[:i] == y[i]).sum()) for i in further)]
    rows = []
    for i, place in zip(listed, places, strict=True):
        weight = float(weights[i])
        cut: Cut | None = None
        if place >= kept.by_top_k:
            cut = "top_k"
        elif place >= kept.by_top_p:
            cut = "top_p"
        elif weight < kept.floor:
            cut = "min_p"
        final = 0.0 if cut else weight / kept.total
        rows.append(ProbableToken(i, float(plain[i]) / z, final, cut))
    return tuple(rows)


def probable_tokens(
    logits: npt.NDArray[np.floating],
    row: TokenRow,
    branches: int = 0,
    penalised: npt.NDArray[np.floating] | None = None,
) -> tuple[ProbableToken, ...]:
    """Finds the most probable tokens of a step's row and every token that was drawn there for its request.

    ``logits`` [V]: the row's; ``branches``: how many further branches the request may open, whose first
    tokens are told of (a step draws them for all of its rows, as many as the row with the most wants);
    ``penalised`` as for :func:`most_probable`.
    Returns () where the logits are bad: nothing was drawn from them.
    """
    if row.flags:
        return ()
    firsts = row.firsts[:branches]
    drawn = [row.token, *(c[0] for c in row.candidates), *(first[0] for first in firsts)]
    draw = Draw(row.temperature, row.top_p, row.top_k, row.min_p)
    return most_probable(logits, draw, drawn, penalised=penalised)


def _order(x: Floats, count: int) -> Integers:
    """Returns the ids of the ``count`` > 0 largest logits and of all that equal the last, largest first."""
    if count >= len(x):
        return np.argsort(-x, kind="stable")
    last = np.partition(x, len(x) - count)[len(x) - count]
    ids = np.flatnonzero(x >= last)
    return np.asarray(ids[np.argsort(-x[ids], kind="stable")], np.int64)


def _filter(x: Floats, weights: Floats, draw: Draw, count: int) -> _Kept:
    """Tells how far each filter reaches. ``weights`` [V]: of the logits x, 1 for the largest.

    Sorts no more tokens than the filters keep, about.
    """
    size = len(x)
    by_top_k = draw.top_k if 0 < draw.top_k < size else size
    floor = min(draw.min_p, 1.0) * (1.0 - FILTER_TOLERANCE) if draw.min_p > 0 else 0.0
    if by_top_k == size and draw.top_p >= 1.0:
        return _Kept(size, size, floor, float(weights[weights >= floor].sum()))
    listed = by_top_k if by_top_k < size else max(count, 256)
    while True:
        order = _order(x, listed)[:by_top_k]
        mass = np.cumsum(weights[order])
        total = float(mass[-1]) if len(order) == by_top_k else float(weights.sum())
        by_top_p = by_top_k
        if draw.top_p < 1.0:
            before = np.concatenate(([0.0], mass[:-1]))
            by_top_p = max(1, int((before < total * (draw.top_p - FILTER_TOLERANCE)).sum()))
            if by_top_p == len(order) < by_top_k:
                listed *= 8
                continue
        survivors = weights[order[:by_top_p]]
        return _Kept(by_top_k, by_top_p, floor, math.fsum(survivors[survivors >= floor]))
