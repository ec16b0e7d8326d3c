"""The plots of the plane: heads in both forms, maps, shares, layers, and the figures that separate habits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..grids import OptionalGrid, draw_grid
from ..section import Plot
from .figures import PhaseSpace, Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REACH = 1e-3
"""of the highest G: what is drawn of a logarithmic axis"""
_TITLES = {"normalised": "G, entropy over log2 of the visible keys", "seed": "G, entropy in bits (published)"}


def _values(grid: OptionalGrid) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([[np.nan if x is None else x for x in row] for row in grid], dtype=np.float64)


def plots(found: PhaseSpace) -> tuple[Plot, ...]:
    """Returns the plane in both forms, maps over layers and heads, shares, layers' course and separations."""

    def planes(figure: Figure) -> None:
        x = _values(found.cost)
        layers = np.repeat(np.arange(len(x)), x.shape[1])
        for axes, plane in zip(figure.subplots(1, 2), found.planes, strict=True):
            g = _values(plane.genuineness)
            least = _REACH * float(np.nanmax(g))
            points = axes.scatter(x.ravel(), g.clip(least).ravel(), c=layers, s=16, cmap="viridis")
            _cuts(axes, plane, x)
            if least > 0:
                axes.set_yscale("log")
            axes.set(title=_TITLES[plane.form], xlabel="token cost X (bits)", ylabel="G")
            if plane.form == "seed" and plane.even is not None and plane.even > 0:
                axes.axhline(plane.even, color="C3", lw=1, ls=":", label="even attention")
                axes.legend(fontsize=8)
            figure.colorbar(points, ax=axes, label="layer")

    def maps(figure: Figure) -> None:
        shown = (
            (found.planes[0].genuineness, "G normalised"),
            (found.planes[1].genuineness, "G seed"),
            (found.cost_relative, "relative token cost"),
            (found.induction, "induction"),
        )
        for axes, (values, title) in zip(figure.subplots(1, 4), shown, strict=True):
            draw_grid(figure, axes, values, title)

    def shares(figure: Figure) -> None:
        axes = figure.subplots()
        names = [share.quadrant for share in found.plane("seed").shares]
        for offset, plane in zip((-0.17, 0.17), found.planes, strict=True):
            for at, share in enumerate(plane.shares):
                ends = None
                if share.low is not None and share.high is not None:
                    ends = [[share.share - share.low], [share.high - share.share]]
                axes.bar(
                    [at + offset], [share.share], 0.32, yerr=ends, capsize=3,
                    color="C0" if plane.form == "normalised" else "C1",
                    label=plane.form if at == 0 else None,
                )  # fmt: skip
        axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
        axes.set(ylabel="share of heads, by text", ylim=(0, 1))
        axes.legend()

    def course(figure: Figure) -> None:
        for axes, plane in zip(figure.subplots(1, 2), found.planes, strict=True):
            axes.plot(plane.highest_by_layer, "o-", label="highest head")
            axes.plot(plane.mean_by_layer, "s--", label="mean over heads")
            for cut in (plane.genuine_cut, plane.mechanical_cut):
                if cut is not None:
                    axes.axhline(cut, color="0.6", lw=0.8)
            axes.set(title=_TITLES[plane.form], xlabel="layer", ylabel="G", ylim=(0, None))
            axes.legend(fontsize=8)

    def separations(figure: Figure) -> None:
        axes = figure.subplots()
        habits = list(dict.fromkeys(row.habit for row in found.separations))
        figures = list(dict.fromkeys(row.figure for row in found.separations))
        for number, name in enumerate(figures):
            for row in found.separations:
                if row.figure == name and row.auc is not None:
                    at = habits.index(row.habit) + (number - (len(figures) - 1) / 2) * 0.15
                    axes.plot([at], [row.auc], "o", color=f"C{number}")
                    if row.low is not None and row.high is not None:
                        axes.plot([at, at], [row.low, row.high], color=f"C{number}", lw=1)
            axes.plot([], [], "o", color=f"C{number}", label=name)
        axes.axhline(0.5, color="0.6", lw=0.8)
        axes.set(ylabel="area under the ROC curve", ylim=(-0.02, 1.02))
        axes.set_xticks(range(len(habits)), habits)
        axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15))

    return (
        Plot(
            "plane",
            "Every head by token cost and G, in both forms; grey lines are the cut points (the model's own "
            "to the left, the published to the right). A head whose G is below a thousandth of the highest "
            "stands at that height.",
            planes,
            (12, 4.8),
        ),
        Plot("maps", "The figures by layer and head.", maps, (14, 4.5)),
        Plot("shares", "Heads in each region of the plane, by text; lines: 95 %, texts drawn again.", shares),
        Plot("course", "G of the layers in their order, with the cut points.", course, (11, 4)),
        Plot(
            "separations",
            "How well each figure ranks the highest tenth of heads of a habit above the others; lines: 95 %, "
            "layers drawn again. At .5 it tells nothing.",
            separations,
        ),
    )


def _cuts(axes: Axes, plane: Plane, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    for cut in (plane.genuine_cut, plane.mechanical_cut):
        if cut is not None:
            axes.axhline(cut, color="0.6", lw=0.8)
    # a cut point far from all heads would squeeze them together
    if plane.cost_cut is not None and plane.cost_cut < 2 * np.nanmax(x):
        axes.axvline(plane.cost_cut, color="0.6", lw=0.8)
