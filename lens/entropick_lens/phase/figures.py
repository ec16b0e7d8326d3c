"""The results of the section: the plane of token cost and genuineness in both of its forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from entropick_sampler.genuineness.quadrants import SEED_CUTS, Cuts, Form, Quadrant, calibrated_cuts, classify
from entropick_sampler.genuineness.reference import (
    LEAST,
    WINDOW,
    elaboration_pull,
    head_collapse_rate,
    head_entropy_variance,
)
from entropick_sampler.genuineness.window import RATE, VALUED, VARIANCE, HeadWindow, push

from ..grids import OptionalGrid
from ..statistics import pearson
from .archetypes import Separation
from .circuit import CircuitTest, rates_beside_chance
from .collect import Array, HeadSeries, by_text, nan_mean

ROUNDS: Final = 2000
ORDERS: Final = 500
_DECIMALS: Final = 9


@dataclass(frozen=True, slots=True)
class Share:
    """The share of heads, text by text, in a region of the plane, with its interval over texts."""

    quadrant: str
    share: float
    low: float | None
    """2.5 percentile of texts drawn again; None with one text"""
    high: float | None


@dataclass(frozen=True, slots=True)
class TokenPull:
    """The change of the mean score of all heads from a text's beginning to its end."""

    texts: int
    """texts with enough scores"""
    delta: float
    """mean over texts"""
    low: float | None
    """the 95 % interval: texts drawn again"""
    high: float | None
    pulled: int | None
    """texts that fall by more than the source's cut; None in the normalised form, which has no published
    cut"""


@dataclass(frozen=True, slots=True)
class Plane:
    """G of all heads in one form, and the plane's regions. Grids are by layer and head, means over texts."""

    form: str
    genuineness: OptionalGrid
    variance: OptionalGrid
    """of the entropy over a text's positions"""
    collapse_rate: OptionalGrid
    even: float | None
    """G of even attention over the same texts"""
    above_even: int
    """heads whose G is above that"""
    cost_cut: float | None
    """between DIFFUSE and COMMITTED, bits; None where G is constant: then there are no regions"""
    genuine_cut: float | None
    mechanical_cut: float | None
    labels: tuple[tuple[str, ...], ...]
    """the region of each head by its means; empty without cut points"""
    shares: tuple[Share, ...]
    mean_by_layer: tuple[float, ...]
    highest_by_layer: tuple[float, ...]
    layer_pull: float | None
    """elaboration pull over the layers' highest G: mean of the last five minus mean of the first five"""
    token_pull: TokenPull | None
    circuit: CircuitTest
    reliability: float | None
    """r over heads of G in every second text with G in the others"""


@dataclass(frozen=True, slots=True)
class PhaseSpace:
    """Every head over a text by token cost and genuineness, in both forms. Grids are by layer and head."""

    texts: int
    tokens: int
    """positions that count: all but the first of each text"""
    short_texts: int
    """texts of too few positions for a variance, which have no G"""
    mean_surprisal: float
    """of the texts' tokens, bits"""
    cost: OptionalGrid
    """X, bits: mean over positions, then texts"""
    cost_relative: OptionalGrid
    """the same over the mean surprisal of the visible keys: 1 for even attention"""
    cost_of_text: float | None
    """the share of X's variance over texts and heads that is between texts"""
    cost_reliability: float | None
    sink: OptionalGrid
    previous: OptionalGrid
    broadcast: OptionalGrid
    """mean normalised entropy"""
    induction: OptionalGrid
    repeated: int
    """texts of repeated random tokens"""
    planes: tuple[Plane, ...]
    """normalised, then seed"""
    forms_r: float | None
    """r over heads of G in one form with G in the other"""
    separations: tuple[Separation, ...]
    """figures of the plane against habits of heads"""
    label_separations: tuple[Separation, ...]
    """the source's names of quadrants against the habits that they name"""

    def plane(self, form: Form) -> Plane:
        """Returns the plane in a form."""
        return next(plane for plane in self.planes if plane.form == form)


def optional_grid(values: Array, layers: int) -> OptionalGrid:
    """Returns figures [layers x heads] as a grid, None for NaN."""
    return tuple(
        tuple(None if math.isnan(x) else x for x in row) for row in values.reshape(layers, -1).tolist()
    )


def text_parts(
    series: HeadSeries, values: npt.NDArray[np.float32], least: int = LEAST
) -> tuple[Array, Array]:
    """Computes variance and collapse rate of each text's whole series, [texts, channels].

    NaN for a text of fewer than ``least`` values.
    """
    rows = by_text(series, values)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = [head_entropy_variance(x, window=len(x), least=least) for x in rows]
        rate = [head_collapse_rate(x, window=len(x), least=least) for x in rows]
    return np.stack(variance), np.stack(rate)


def plane(series: HeadSeries, form: Form, cost: Array, window: int, seed: int) -> Plane:
    """Computes the plane of one form from the heads' series and their token costs [texts, channels]."""
    values = series.normalised if form == "normalised" else series.entropy
    variance, rate = text_parts(series, values)
    g = variance + rate
    even = _even(series, form)
    # a G that is constant but for rounding has no regions
    cuts = calibrated_cuts(g.round(_DECIMALS), cost, window) if form == "normalised" else SEED_CUTS
    mean_g, mean_x = nan_mean(g), nan_mean(cost)
    layers = series.layers
    of_layer = mean_g.reshape(layers, -1)
    highest = np.nan_to_num(of_layer.max(1))
    pull = elaboration_pull(highest)
    # on the source's scale G / 0.5 the trajectory is clipped to 0..1, as its code does
    scale = 1.0 if form == "normalised" else 0.5
    upper, lower = (None, None) if cuts is None else (cuts.genuine / scale, cuts.mechanical / scale)
    return Plane(
        form=form,
        genuineness=optional_grid(mean_g, layers),
        variance=optional_grid(nan_mean(variance), layers),
        collapse_rate=optional_grid(nan_mean(rate), layers),
        even=even,
        above_even=0 if even is None else int((mean_g > even).sum()),
        cost_cut=None if cuts is None else cuts.cost,
        genuine_cut=None if cuts is None else cuts.genuine,
        mechanical_cut=None if cuts is None else cuts.mechanical,
        labels=() if cuts is None else _labels(mean_g, mean_x, cuts, layers),
        shares=() if cuts is None else _shares(g, cost, cuts, seed),
        mean_by_layer=tuple(np.nan_to_num(of_layer.mean(1)).tolist()),
        highest_by_layer=tuple(highest.tolist()),
        layer_pull=None if pull is None else pull.delta,
        token_pull=_token_pull(series, values, form, seed),
        circuit=rates_beside_chance(np.clip(highest / scale, 0.0, 1.0), upper, lower, ORDERS, seed),
        reliability=halves_r(g),
    )


def _even(series: HeadSeries, form: Form) -> float | None:
    """Returns G of attention that is even over all visible keys, mean over texts and layers."""
    log2 = series.log2_keys
    variance, rate = text_parts(series, np.ones_like(log2) if form == "normalised" else log2)
    found = nan_mean(nan_mean(variance + rate))
    return None if math.isnan(float(found)) else float(found)


def _labels(g: Array, x: Array, cuts: Cuts, layers: int) -> tuple[tuple[str, ...], ...]:
    found = classify(g, x, cuts).reshape(layers, -1)
    return tuple(tuple("" if q < 0 else Quadrant(q).label for q in row) for row in found.tolist())


def _shares(g: Array, x: Array, cuts: Cuts, seed: int) -> tuple[Share, ...]:
    found = classify(g, x, cuts)
    counts = np.stack([(found == int(q)).sum(1) for q in Quadrant], 1).astype(np.float64)
    counts = counts[counts.sum(1) > 0]
    if not len(counts):
        return ()
    whole = counts.sum(0) / counts.sum()
    low: list[float | None] = [None] * len(Quadrant)
    high = list(low)
    if len(counts) > 1:
        drawn = _drawn(len(counts), seed) @ counts
        ends = np.percentile(drawn / drawn.sum(1, keepdims=True), [2.5, 97.5], axis=0)
        low, high = ends[0].tolist(), ends[1].tolist()
    return tuple(Share(q.label, float(whole[q]), low[q], high[q]) for q in Quadrant)


def _drawn(count: int, seed: int) -> Array:
    """Returns how often each text counts in each round of texts drawn again."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=ROUNDS).astype(np.float64)


def _token_pull(
    series: HeadSeries, values: npt.NDArray[np.float32], form: Form, seed: int
) -> TokenPull | None:
    """Follows the mean G of all heads in the live window through each text."""
    deltas = []
    for lo, hi in series.bounds:
        window = HeadWindow(values.shape[1], WINDOW, least=LEAST)
        scores = []
        for row in values[lo:hi]:
            out, _ = push([window], row[None])
            if out[0, VALUED]:
                scores.append(float(out[0, VARIANCE] + out[0, RATE]))
        pull = elaboration_pull(scores)
        if pull is not None:
            deltas.append(pull.delta)
    if not deltas:
        return None
    of_text = np.array(deltas)
    low = high = None
    if len(deltas) > 1:
        drawn = _drawn(len(deltas), seed) @ of_text / len(deltas)
        low, high = (float(v) for v in np.percentile(drawn, [2.5, 97.5]))
    cut = SEED_CUTS.pull if form == "seed" else None
    pulled = None if cut is None else int((of_text < cut).sum())
    return TokenPull(len(deltas), float(of_text.mean()), low, high, pulled)


def halves_r(figures: Array) -> float | None:
    """Returns r over heads of the means [texts, heads] over every second text with those over the others."""
    if len(figures) < 2:
        return None
    return r_over_heads(nan_mean(figures[::2]), nan_mean(figures[1::2]))


def r_over_heads(one: Array, other: Array) -> float | None:
    """Returns Pearson's r of two figures [heads] where both are known."""
    known = np.isfinite(one) & np.isfinite(other)
    return pearson(one[known], other[known])


def between_texts(figures: Array) -> float | None:
    """Returns the share of the variance of figures [texts, heads] that the texts' means have."""
    known = figures[np.isfinite(figures).all(1)]
    whole = float(known.var()) if known.size else 0.0
    return float(known.mean(1).var()) / whole if whole > 0 else None
