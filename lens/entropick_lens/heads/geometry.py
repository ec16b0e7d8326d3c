"""The section ``head_geometry``: singular values of each head's query-key form, from the weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..grids import OptionalGrid, draw_grid, shown_heads
from ..section import Model, Options, Plot, Section, progress
from ..weights import Shape, Weights
from .spectrum import NAMES, Descriptors, alignment, describe, singular_values, triangle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK_ONE: Final = 1.1
"""a head of a lower effective rank is called one of rank one"""
MIRRORED: Final = 0.9
"""a head of a greater alignment is called one whose keys equal its queries"""
_FAR: Final = 5.0
"""standard deviations, by the median absolute deviation, from which a head is called unusual"""


@dataclass(frozen=True, slots=True)
class HeadGeometry:
    """The geometry of all heads; lists over layers of lists over query heads."""

    folded: bool
    """whether the norm's scale is folded in"""
    rotary: bool
    """whether queries and keys are rotated by position, so that M is the form at distance 0 alone"""
    biased: bool
    """whether queries or keys have biases, which M leaves out"""
    head_norms: bool
    """whether queries and keys are normed head by head, which M leaves out"""
    kv_heads: tuple[int, ...]
    """the key head of each query head"""
    singular_values: tuple[tuple[tuple[float, ...], ...], ...]
    """by layer and head, largest first"""
    op: OptionalGrid
    fro: OptionalGrid
    trace: OptionalGrid
    rank_eff: OptionalGrid
    spec_ent: OptionalGrid
    anisotropy: OptionalGrid
    condition: OptionalGrid
    alignment: OptionalGrid
    """M's own trace by its nuclear norm: 0 for unrelated projections, 1 where W_K = W_Q"""

    def descriptor(self, name: str) -> OptionalGrid:
        """Returns one of the seven figures, by layer and head."""
        grid: OptionalGrid = getattr(self, name)
        return grid


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> HeadGeometry:
    """Measures the geometry of every head, a layer at a time."""
    weights, shape = model.weights, model.shape
    spectra: list[tuple[tuple[float, ...], ...]] = []
    aligned: list[tuple[float | None, ...]] = []
    for layer in progress(range(shape.layers), "head geometry", options):
        of_layer, trace = layer_spectra(weights, shape, layer, raw=options.raw)
        spectra.append(of_layer)
        aligned.append(trace)
    return from_spectra(
        tuple(spectra),
        tuple(aligned),
        folded=not options.raw,
        rotary=getattr(model.config, "rope_parameters", None) is not None,
        biased=any(weights.has(f"layers.0.self_attn.{part}_proj.bias") for part in "qk"),
        head_norms=weights.has("layers.0.self_attn.q_norm.weight"),
        kv_heads=tuple(shape.kv_head(head) for head in range(shape.heads)),
    )


def layer_spectra(
    weights: Weights, shape: Shape, layer: int, *, raw: bool
) -> tuple[tuple[tuple[float, ...], ...], tuple[float | None, ...]]:
    """Returns the singular values of a layer's query heads, and their alignments."""
    w_q, w_k = weights.heads(layer, "q", raw=raw), weights.heads(layer, "k", raw=raw)
    # a key head's triangle serves all of its query heads
    of_k = triangle(w_k).repeat_interleave(shape.group, 0)
    values = singular_values(triangle(w_q), of_k)
    found = alignment(w_q, w_k.repeat_interleave(shape.group, 0), values.sum(-1))
    return (
        tuple(tuple(row) for row in values.tolist()),
        tuple(None if math.isnan(x) else x for x in found.tolist()),
    )


def from_spectra(
    spectra: tuple[tuple[tuple[float, ...], ...], ...],
    aligned: OptionalGrid = (),
    *,
    folded: bool,
    rotary: bool,
    biased: bool = False,
    head_norms: bool = False,
    kv_heads: tuple[int, ...] = (),
) -> HeadGeometry:
    """Builds the result from singular values by layer and head."""
    found: list[list[Descriptors]] = [[describe(head) for head in layer] for layer in spectra]
    grids = {name: tuple(tuple(getattr(head, name) for head in layer) for layer in found) for name in NAMES}
    return HeadGeometry(
        folded=folded,
        rotary=rotary,
        biased=biased,
        head_norms=head_norms,
        kv_heads=kv_heads,
        singular_values=spectra,
        alignment=aligned,
        **grids,
    )


def sentences(found: HeadGeometry) -> tuple[str, ...]:
    """Describes the unusual heads, then how the figures of all heads are spread."""
    said: list[str] = []
    width = len(found.singular_values[0][0])
    ranks = _numbers(found.rank_eff)
    dead = _where(found.op, lambda x: x == 0.0)
    low = _where(found.rank_eff, lambda x: x < RANK_ONE)
    mirrored = _where(found.alignment, lambda x: x > MIRRORED)
    if dead:
        said.append(f"{shown_heads(dead)}: the query-key form is 0, every key gets the same score.")
    if low:
        said.append(
            f"{shown_heads(low)}: the query-key form is of rank one (effective rank below {RANK_ONE}): "
            "a head that asks for a single direction."
        )
    if mirrored:
        said.append(
            f"{shown_heads(mirrored)}: keys equal queries but for noise (M's trace is above {MIRRORED} of "
            "its nuclear norm): tokens attend to tokens like themselves."
        )
    for name, what in (("op", "a largest singular value"), ("rank_eff", "an effective rank")):
        far = _unusual(found.descriptor(name))
        far = [place for place in far if place not in low and place not in dead]
        if far:
            middle = float(np.median(_numbers(found.descriptor(name))))
            ends = "; ".join(f"{shown_heads([p])} {found.descriptor(name)[p[0]][p[1]]:.3g}" for p in far[:5])
            said.append(
                f"{len(far)} heads have {what} far from the median {middle:.3g} (more than {_FAR:g} robust "
                f"standard deviations of its logarithm): {ends}{'; ...' if len(far) > 5 else '.'}"
            )
    if len(ranks):
        said.append(
            f"Effective rank runs from {ranks.min():.1f} to {ranks.max():.1f} of {width}, median "
            f"{np.median(ranks):.1f}; the largest singular value from {_numbers(found.op).min():.3g} to "
            f"{_numbers(found.op).max():.3g}."
        )
        by_layer = np.array(
            [np.mean([x for x in layer if x is not None] or [np.nan]) for layer in found.rank_eff]
        )
        if len(by_layer) > 2 and not np.isnan(by_layer).any():
            low_at, high_at = int(by_layer.argmin()), int(by_layer.argmax())
            said.append(
                f"Layer {low_at} has the lowest mean effective rank ({by_layer[low_at]:.1f}), {high_at} "
                f"the highest ({by_layer[high_at]:.1f})."
            )
    said.append(_limits(found))
    return tuple(said)


def _limits(found: HeadGeometry) -> str:
    said = "The norm's scale is folded in" if found.folded else "Projections are taken as stored"
    if found.rotary:
        said += (
            "; queries and keys are rotated by position before they meet, so M is the form of a token with "
            "itself (distance 0), and other distances have other singular values"
        )
    left = [
        name
        for name, there in (("biases", found.biased), ("norms of single heads", found.head_norms))
        if there
    ]
    if left:
        said += f"; this model's {' and '.join(left)} of queries and keys are left out"
    return said + "."


def _numbers(grid: OptionalGrid) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([x for layer in grid for x in layer if x is not None], dtype=np.float64)


def _where(grid: OptionalGrid, holds: Any) -> list[tuple[int, int]]:
    return [(i, j) for i, layer in enumerate(grid) for j, x in enumerate(layer) if x is not None and holds(x)]


def _unusual(grid: OptionalGrid) -> list[tuple[int, int]]:
    """Returns the heads whose figure is far from the median, the farthest first; logarithms are compared."""
    values = _numbers(grid)
    logs = np.log(values[values > 0])
    if len(logs) < 8:
        return []
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    if spread == 0:
        return []
    far = [(abs(math.log(x) - middle) / spread, i, j) for i, j, x in _positive(grid)]
    return [(i, j) for distance, i, j in sorted(far, reverse=True) if distance > _FAR]


def _positive(grid: OptionalGrid) -> list[tuple[int, int, float]]:
    return [(i, j, x) for i, layer in enumerate(grid) for j, x in enumerate(layer) if x is not None and x > 0]


def plots(found: HeadGeometry) -> tuple[Plot, ...]:
    """Returns maps over layers and heads, and the spectra."""

    def maps(figure: Figure) -> None:
        shown = (("rank_eff", "effective rank", False), ("op", "largest singular value", True))
        for axes, (name, title, log) in zip(figure.subplots(1, 2), shown, strict=True):
            draw_grid(figure, axes, found.descriptor(name), title, log=log)

    def spectra(figure: Figure) -> None:
        import matplotlib as mpl

        axes = figure.subplots()
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(found.singular_values)))
        for colour, layer in zip(colours, found.singular_values, strict=True):
            rows = np.array(layer) / np.maximum(np.array(layer)[:, :1], 1e-300)
            for row in rows:
                axes.plot(range(1, len(row) + 1), np.maximum(row, 1e-8), color=colour, lw=0.6, alpha=0.5)
        axes.set(yscale="log", xlabel="index", ylabel="singular value / largest")
        scale = mpl.cm.ScalarMappable(
            mpl.colors.Normalize(0, len(found.singular_values) - 1), mpl.colors.ListedColormap(colours)
        )
        figure.colorbar(scale, ax=axes, label="layer")

    return (
        Plot(
            "maps",
            "Effective rank and largest singular value of M = W_K^T W_Q, by layer and query head.",
            maps,
            (9, 5),
        ),
        Plot(
            "spectra",
            "The spectrum of every head over its largest value; a steep line is a head of few directions.",
            spectra,
        ),
    )


SECTION: Final = Section(
    name="head_geometry",
    title="Heads: geometry of the weights",
    version=1,
    result=HeadGeometry,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("raw",),
)
