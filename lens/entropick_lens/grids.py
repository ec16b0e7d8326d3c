"""Figures by layer and head: their types, their names in sentences, their maps in plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Grid: TypeAlias = tuple[tuple[float, ...], ...]
"""a figure by layer and head"""
OptionalGrid: TypeAlias = tuple[tuple[float | None, ...], ...]
"""a figure by layer and head, None where it has no meaning"""
_MOST_NAMED = 8


def grid(values: Iterable[Iterable[Any]]) -> Grid:
    """Returns rows of numbers as a grid."""
    return tuple(tuple(map(float, row)) for row in values)


def shown_heads(places: Sequence[tuple[int, int]]) -> str:
    """Returns heads by layer and number, as 3.0 for head 0 of layer 3; of many the first."""
    named = ", ".join(f"{layer}.{head}" for layer, head in places[:_MOST_NAMED])
    more = len(places) - _MOST_NAMED
    return f"{'head' if len(places) == 1 else 'heads'} {named}" + (f" and {more} more" if more > 0 else "")


def draw_grid(
    figure: Figure,
    axes: Axes,
    values: OptionalGrid,
    title: str,
    *,
    log: bool = False,
    around: float | None = None,
) -> None:
    """Draws a map of layers (from the top) by heads; ``around``: the value in the middle of two colours."""
    from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
    from matplotlib.ticker import MaxNLocator

    data = np.array([[np.nan if x is None else x for x in row] for row in values], dtype=np.float64)
    norm: Normalize | None = None
    if log and np.nanmin(data) > 0:
        norm = LogNorm()
    elif around is not None:
        reach = max(float(np.nanmax(np.abs(data - around))), 1e-12)
        norm = TwoSlopeNorm(around, around - reach, around + reach)
    image = axes.imshow(
        data,
        aspect="auto",
        interpolation="nearest",
        norm=norm,
        cmap="viridis" if around is None else "RdBu_r",
    )
    axes.set(title=title, xlabel="head", ylabel="layer")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes)
