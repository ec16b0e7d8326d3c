"""The plots of the section ``states``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..section import Plot
from .states_result import States

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(found: States) -> tuple[Plot, ...]:
    """Returns the plots of the states and of the heads' reach."""
    drawn = [
        Plot(
            "norms",
            "Norm of the residual stream at the embedding (0) and behind each layer, on a log axis: "
            "position 0 and "
            "all others.",
            lambda figure: _norms(figure, found),
        ),
        Plot(
            "cosines",
            "Mean cosine of two positions of a text, with and without position 0, and of a position with "
            "itself "
            "one layer before.",
            lambda figure: _cosines(figure, found),
        ),
    ]
    if found.reach:
        drawn.append(
            Plot(
                "reach",
                "Share of attention on position 0 (left), and of the rest the share on the token itself and "
                "the two "
                "before it (right).",
                lambda figure: _reach(figure, found),
                (9.0, 1.8 + 0.16 * len(found.layers)),
            )
        )
        drawn.append(
            Plot(
                "distance",
                "Mean attention of a query to a key by distance, without position 0, on log axes: median "
                "over the "
                "heads, and 10 to 90 %.",
                lambda figure: _distance(figure, found),
            )
        )
    return tuple(drawn)


def _norms(figure: Figure, found: States) -> None:
    axes = figure.subplots()
    x = range(len(found.layers))
    axes.semilogy(x, [one.first_norm for one in found.layers], "--", label="position 0")
    axes.semilogy(x, [one.mean_norm_without_first or float("nan") for one in found.layers], label="others")
    axes.set_xlabel("layer")
    axes.set_ylabel("norm")
    axes.legend()


def _cosines(figure: Figure, found: States) -> None:
    axes = figure.subplots()
    x = range(len(found.layers))
    lines = {
        "two positions, without 0": [one.pair_cosine_without_first for one in found.layers],
        "two positions": [one.pair_cosine for one in found.layers],
        "the layer before": [one.change_cosine for one in found.layers],
    }
    for name, values in lines.items():
        axes.plot(x, [float("nan") if v is None else v for v in values], label=name)
    axes.set_xlabel("layer")
    axes.set_ylabel("mean cosine")
    axes.legend()


def _reach(figure: Figure, found: States) -> None:
    layers, heads = (max(getattr(one, name) for one in found.reach) + 1 for name in ("layer", "head"))
    for axes, field in zip(figure.subplots(1, 2, sharey=True), ("first_share", "local_share"), strict=True):
        table = [[float("nan")] * heads for _ in range(layers)]
        for one in found.reach:
            value = getattr(one, field)
            if value is not None:
                table[one.layer][one.head] = value
        image = axes.imshow(table, aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis")
        axes.set_xlabel("head")
        figure.colorbar(image, ax=axes)
    figure.supylabel("layer")


def _distance(figure: Figure, found: States) -> None:
    import numpy as np

    axes = figure.subplots()
    table = np.array(
        [[np.nan if v is None else v for v in one.by_distance] for one in found.reach], dtype=float
    )
    there = ~np.isnan(table).all(0)
    x = np.array(found.edges, dtype=float)[there] + 1.0
    low, middle, high = np.nanpercentile(table[:, there], (10, 50, 90), axis=0)
    axes.loglog(x, middle)
    axes.fill_between(x, np.maximum(low, 1e-9), high, alpha=0.2)
    axes.set_xlabel("distance + 1 (first of the bin)")
    axes.set_ylabel("mean attention")
