"""The section ``head_relation``: how well the geometry of a head predicts its attention over text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..grids import Grid, OptionalGrid, draw_grid, shown_heads
from ..section import Model, Options, Plot, Section
from ..statistics import Array, Correlation, Regression, correlation, holm, regress
from .attention import HeadAttention
from .geometry import HeadGeometry
from .spectrum import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGRESSORS: Final = ("op", "spec_ent", "rank_eff", "anisotropy")
"""the regressors of the source; anisotropy is D / rank_eff, so two of them hold the same information"""
THIRDS: Final = ("early", "middle", "late")
PREDICTED: Final = "score_std_predicted"
_SURE: Final = 0.05
_QUICK_PERMUTATIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The figures of attention over text that geometry is compared with."""

    entropy: Grid
    score_std: Grid
    score_std_predicted: Grid = ()
    """empty where only weights and attention are known"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure of the geometry against a figure of the attention, over some layers."""

    figure: str
    target: str
    """``entropy`` or ``score_std``"""
    layers: str
    """``all``, ``early``, ``middle`` or ``late``"""
    correlation: Correlation


@dataclass(frozen=True, slots=True)
class HeadRelation:
    """The relation of weights and attention over all heads."""

    pairs: tuple[Pair, ...]
    tests: int
    """p-values that the correction counts"""
    best: tuple[tuple[str, str], ...]
    """of each target the figure with the largest absolute r over all layers, as (target, figure)"""
    regression: Regression | None
    """entropy on op, spec_ent, rank_eff and anisotropy"""
    regression_without_anisotropy: Regression | None
    regression_score_std: Regression | None
    regression_predicted: Regression | None
    """entropy on the predicted standard deviation of the scores alone"""
    residual: OptionalGrid
    """of the regression of entropy, in standard deviations"""
    unpredicted: tuple[tuple[int, int], ...]
    """a quarter of the heads, (layer, head): those whose entropy the geometry predicts worst, the worst
    first"""
    rank_eff: OptionalGrid
    entropy: Grid


def thirds(layers: int) -> dict[str, range]:
    """Returns the layers of each third: [0, L//3), [L//3, 2L//3), [2L//3, L)."""
    a, b = layers // 3, 2 * layers // 3
    return dict(zip(THIRDS, (range(a), range(a, b), range(b, layers)), strict=True))


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> HeadRelation:
    """Relates the results of ``head_geometry`` and ``head_attention``."""
    found: HeadAttention = results["head_attention"]
    dynamic = Dynamic(found.entropy, found.score_std, found.score_std_predicted)
    rounds = min(options.permutations, _QUICK_PERMUTATIONS) if options.quick else options.permutations
    return relate(results["head_geometry"], dynamic, rounds, options.seed)


def relate(geometry: HeadGeometry, attention: Dynamic, permutations: int, seed: int) -> HeadRelation:
    """Correlates seven figures of the geometry, and the predicted spread of scores, with entropy and
    spread."""
    targets = {"entropy": _flat(attention.entropy), "score_std": _flat(attention.score_std)}
    figures = {name: _flat(geometry.descriptor(name)) for name in NAMES}
    if attention.score_std_predicted:
        figures[PREDICTED] = _flat(attention.score_std_predicted)
    layers, heads = len(attention.entropy), len(attention.entropy[0])
    layer_of = np.repeat(np.arange(layers), heads)
    pairs: list[Pair] = []

    def add(figure: str, target: str, name: str, rows: Any) -> None:
        x, y = figures[figure], targets[target]
        rows = rows & np.isfinite(x) & np.isfinite(y)
        pairs.append(
            Pair(figure, target, name, correlation(x[rows], y[rows], layer_of[rows], permutations, seed))
        )

    for target in targets:
        for figure in figures:
            add(figure, target, "all", np.full(len(layer_of), True))
    for name, own in thirds(layers).items():
        for figure in figures:
            add(figure, "entropy", name, np.isin(layer_of, own))
    corrected = holm([pair.correlation.p for pair in pairs])
    pairs = [
        replace(pair, correlation=replace(pair.correlation, p_holm=p))
        for pair, p in zip(pairs, corrected, strict=True)
    ]
    there = np.all([np.isfinite(figures[name]) for name in REGRESSORS], axis=0) & np.isfinite(
        targets["entropy"]
    )

    def fit(target: str, names: tuple[str, ...]) -> Regression | None:
        columns = {name: figures[name][there] for name in names if name in figures}
        return regress(targets[target][there], columns, layer_of[there], min(permutations, 500), seed)

    whole = fit("entropy", REGRESSORS)
    residual = np.full(len(layer_of), np.nan)
    if whole is not None:
        residual[there] = whole.residuals
    ranked = [int(i) for i in np.argsort(-np.abs(residual)) if np.isfinite(residual[i])]
    return HeadRelation(
        pairs=tuple(pairs),
        tests=sum(p is not None for p in corrected),
        best=_best(pairs, tuple(targets)),
        regression=whole,
        regression_without_anisotropy=fit("entropy", REGRESSORS[:-1]),
        regression_score_std=fit("score_std", REGRESSORS),
        regression_predicted=fit("entropy", (PREDICTED,)),
        residual=tuple(
            tuple(None if np.isnan(x) else float(x) for x in row) for row in residual.reshape(layers, heads)
        ),
        unpredicted=tuple((i // heads, i % heads) for i in ranked[: max(1, len(layer_of) // 4)]),
        rank_eff=geometry.rank_eff,
        entropy=attention.entropy,
    )


def _flat(grid: OptionalGrid) -> Array:
    return np.array([np.nan if x is None else x for row in grid for x in row], dtype=np.float64)


def _best(pairs: list[Pair], targets: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found = []
    for target in targets:
        of_target = [
            (abs(pair.correlation.r), pair.figure)
            for pair in pairs
            if pair.target == target and pair.layers == "all" and pair.correlation.r is not None
        ]
        if of_target:
            found.append((target, max(of_target)[1]))
    return tuple(found)


def pair(found: HeadRelation, figure: str, target: str, layers: str = "all") -> Correlation:
    """Returns the correlation of a figure and a target over some layers. Raises KeyError."""
    for one in found.pairs:
        if (one.figure, one.target, one.layers) == (figure, target, layers):
            return one.correlation
    raise KeyError(f"{figure}, {target}, {layers}")


def _shown(one: Correlation) -> str:
    if one.r is None:
        return "r does not exist"
    said = f"r = {one.r:+.2f}"
    if one.low is not None and one.high is not None:
        said += f" [{one.low:+.2f}, {one.high:+.2f}]"
    if one.within is not None:
        said += f", within layers {one.within:+.2f}"
    if one.p_holm is not None:
        said += f", p = {one.p_holm:.2g} after correction"
    return said


def sentences(found: HeadRelation) -> tuple[str, ...]:
    """Describes the figure that predicts attention best, the fit of all of them, and the heads they miss."""
    said: list[str] = []
    for target, figure in found.best:
        name = "mean attention entropy" if target == "entropy" else "spread of scores"
        said.append(
            f"Over {pair(found, figure, target).n} heads the {name} goes best with {figure}: "
            f"{_shown(pair(found, figure, target))}."
        )
    by_weights = [
        p for p in found.pairs if p.layers == "all" and p.target == "entropy" and p.figure != PREDICTED
    ]
    sure = [p for p in by_weights if p.correlation.p_holm is not None and p.correlation.p_holm < _SURE]
    said.append(
        f"Of the seven figures of the weights {len(sure)} go with the entropy beyond chance (p < {_SURE} "
        f"after Holm's correction for {found.tests} tests, heads permuted within layers)"
        + (": " + ", ".join(f"{p.figure} {p.correlation.r:+.2f}" for p in sure) + "." if sure else ".")
    )
    changes = []
    for name in NAMES:
        values = [pair(found, name, "entropy", third).r for third in THIRDS]
        known = [v for v in values if v is not None]
        if len(known) == len(values) and min(known) < -0.3 and max(known) > 0.3:
            changes.append(f"{name} " + "/".join(f"{v:+.2f}" for v in values))
    if changes:
        said.append(f"The sign changes with depth (early/middle/late third): {'; '.join(changes)}.")
    if found.regression is not None:
        said.append(_regression(found.regression, found.regression_without_anisotropy))
    if found.regression_predicted is not None:
        one = found.regression_predicted
        said.append(
            f"The spread of scores that weights and inputs predict, alone, has R² {one.r2:.2f}"
            + (
                f" ({one.r2_left_out:.2f} for layers that were left out)."
                if one.r2_left_out is not None
                else "."
            )
        )
    if found.unpredicted:
        said.append(
            f"The entropy of {shown_heads(found.unpredicted)} is farthest from what the geometry predicts: "
            "live figures of these heads tell most that the weights do not."
        )
    return tuple(said)


def _regression(whole: Regression, without: Regression | None) -> str:
    terms = ", ".join(
        f"{t.name} {t.coefficient:+.2f}"
        + (f" (variance inflated {t.inflation:.1f} times)" if t.inflation else "")
        for t in whole.terms
    )
    left = "" if whole.r2_left_out is None else f", {whole.r2_left_out:.2f} for layers that were left out"
    rest = "" if without is None else f"; without anisotropy, which is D / rank_eff, R² is {without.r2:.2f}"
    return f"Regression of the entropy on {terms}: R² {whole.r2:.2f}{left}{rest}."


def plots(found: HeadRelation) -> tuple[Plot, ...]:
    """Returns the scatter with fits by third, the correlations, the coefficients and the residuals."""

    def scatter(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, own), colour in zip(thirds(len(found.entropy)).items(), ("C0", "C1", "C2"), strict=True):
            x, y = _flat(tuple(found.rank_eff[i] for i in own)), _flat(tuple(found.entropy[i] for i in own))
            there = np.isfinite(x)
            axes.scatter(x[there], y[there], s=18, color=colour, label=name, alpha=0.8)
            if there.sum() > 2 and x[there].std() > 0:
                slope, offset = np.polyfit(x[there], y[there], 1)
                ends = np.array([x[there].min(), x[there].max()])
                axes.plot(ends, offset + slope * ends, color=colour, lw=1)
        axes.set(xlabel="effective rank of the query-key form", ylabel="mean attention entropy (bits)")
        axes.legend(title="third of the layers")

    def bars(figure: Figure) -> None:
        axes = figure.subplots()
        shown = [p for p in found.pairs if p.target == "entropy" and p.correlation.r is not None]
        names = list(dict.fromkeys(p.figure for p in shown))
        colours = {"all": "0.2", "early": "C0", "middle": "C1", "late": "C2"}
        for offset, layers in enumerate(colours):
            for p in shown:
                if p.layers == layers:
                    one, at = p.correlation, names.index(p.figure) + (offset - 1.5) * 0.18
                    if one.r is not None:
                        axes.plot([at], [one.r], "o", color=colours[layers], ms=5)
                    if one.low is not None and one.high is not None:
                        axes.plot([at, at], [one.low, one.high], color=colours[layers], lw=1)
        for layers, colour in colours.items():
            axes.plot([], [], "o", color=colour, label=layers)
        axes.axhline(0, color="0.7", lw=0.8)
        axes.set(ylabel="r with attention entropy", ylim=(-1.05, 1.05))
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.legend(title="layers", ncols=4)

    def coefficients(figure: Figure) -> None:
        axes = figure.subplots()
        terms = found.regression.terms if found.regression is not None else ()
        for at, term in enumerate(terms):
            axes.plot([term.coefficient], [at], "o", color="C0")
            if term.low is not None and term.high is not None:
                axes.plot([term.low, term.high], [at, at], color="C0")
        axes.axvline(0, color="0.7", lw=0.8)
        axes.set_yticks(range(len(terms)), [term.name for term in terms])
        axes.set(xlabel="standardised coefficient, 95 % interval over layers")

    def residual(figure: Figure) -> None:
        draw_grid(figure, figure.subplots(), found.residual, "entropy beyond the prediction (sd)", around=0.0)

    drawn = [
        Plot(
            "scatter",
            "Attention entropy against the effective rank, a fit for each third of the layers.",
            scatter,
        ),
        Plot(
            "correlations",
            "Correlation of each figure with attention entropy; lines: 95 %, layers drawn again.",
            bars,
        ),
    ]
    if found.regression is not None:
        drawn += [
            Plot("coefficients", "Coefficients of the regression of entropy.", coefficients, (7.5, 3)),
            Plot(
                "residuals",
                "Heads whose entropy the regression misses: red above, blue below it.",
                residual,
                (6, 5),
            ),
        ]
    return tuple(drawn)


SECTION: Final = Section(
    name="head_relation",
    title="Heads: do weights tell attention?",
    version=1,
    result=HeadRelation,
    measure=measure,
    sentences=sentences,
    plots=plots,
    needs=("head_geometry", "head_attention"),
    uses=("permutations", "seed", "quick"),
)
