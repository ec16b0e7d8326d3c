"""The plots of the section ``weights``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..section import Plot
from .weight_terrain import PartCosines, WeightTerrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(found: WeightTerrain) -> tuple[Plot, ...]:
    """Returns the plots of the weights' terrain."""
    tall = 1.8 + 0.16 * found.layers
    drawn = [
        Plot(
            "spectra",
            "Three figures of the singular values, by layer and matrix, each divided by the number of "
            "singular "
            "values: stable rank, participation ratio and the rank that holds 90 % of the sum.",
            lambda figure: _spectra(figure, found),
            (9.0, tall),
        ),
        Plot(
            "sparsity",
            "Hoyer's sparsity by layer and matrix; a Gaussian matrix has 0.202. It does not depend on the "
            "scale.",
            lambda figure: _sparsity(figure, found),
            (5.0, tall),
        ),
    ]
    if found.heads:
        drawn.append(
            Plot(
                "signs",
                "Sign balance of each head's query-key product, by layer: red looks for its like, blue "
                "avoids it, "
                "white is random.",
                lambda figure: _signs(figure, found),
                (7.5, tall),
            )
        )
    drawn += [
        Plot(
            f"layers-{one.part}",
            f"{one.part}: cosine between layers, entry by entry (left) and of the traceless W^T W (right), "
            f"which "
            "does not see the order of neurons.",
            partial(_cosines, one=one),
            (8.5, 4.0),
        )
        for one in found.cosines
        if one.part in ("q", "gate", "down")
    ]
    drawn.append(
        Plot(
            "norms",
            "Scales of the norms by layer: mean, and from the smallest to the largest scale.",
            lambda figure: _norms(figure, found),
        )
    )
    return tuple(drawn)


def _table(found: WeightTerrain, field: str) -> tuple[list[str], list[list[float]]]:
    parts = list(dict.fromkeys(one.part for one in found.matrices))
    table = [[float("nan")] * len(parts) for _ in range(found.layers)]
    for one in found.matrices:
        if field == "hoyer":
            value = one.sparsity.hoyer
        else:
            value = None if one.spectrum is None else getattr(one.spectrum, field) / one.spectrum.size
        if value is not None:
            table[one.layer][parts.index(one.part)] = value
    return parts, table


def _spectra(figure: Figure, found: WeightTerrain) -> None:
    names = {
        "stable_rank": "stable rank",
        "participation_ratio": "participation ratio",
        "rank90": "rank of 90 %",
    }
    for axes, (field, title) in zip(figure.subplots(1, 3, sharey=True), names.items(), strict=True):
        parts, table = _table(found, field)
        image = axes.imshow(table, aspect="auto", vmin=0.0, cmap="viridis")
        axes.set_title(title)
        axes.set_xticks(range(len(parts)), parts)
        figure.colorbar(image, ax=axes)
    figure.supylabel("layer")


def _sparsity(figure: Figure, found: WeightTerrain) -> None:
    axes = figure.subplots()
    parts, table = _table(found, "hoyer")
    image = axes.imshow(table, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(parts)), parts)
    axes.set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="Hoyer")


def _signs(figure: Figure, found: WeightTerrain) -> None:
    heads = max(head.head for head in found.heads) + 1
    table = [[float("nan")] * heads for _ in range(found.layers)]
    for head in found.heads:
        if head.balance is not None:
            table[head.layer][head.head] = head.balance
    axes = figure.subplots()
    image = axes.imshow(table, aspect="auto", vmin=-1.0, vmax=1.0, cmap="RdBu_r")
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="sign balance")


def _cosines(figure: Figure, one: PartCosines) -> None:
    tables = [("entry by entry", one.cosines.flat)]
    if one.cosines.gram:
        tables.append(("traceless W^T W", one.cosines.gram))
    for axes, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True):
        off = [abs(v) for at, row in enumerate(table) for to, v in enumerate(row) if at != to]
        limit = max([*off, 1e-6])
        image = axes.imshow(table, vmin=-limit, vmax=limit, cmap="RdBu_r")
        axes.set_title(title)
        axes.set_xlabel("layer")
        figure.colorbar(image, ax=axes)


def _norms(figure: Figure, found: WeightTerrain) -> None:
    axes = figure.subplots()
    for kind in ("attention", "mlp"):
        some = [norm for norm in found.norms if norm.name.endswith(kind)]
        if some:
            x = list(range(len(some)))
            axes.plot(x, [norm.mean for norm in some], label=f"before {kind}")
            axes.fill_between(x, [norm.least for norm in some], [norm.greatest for norm in some], alpha=0.15)
    axes.set_xlabel("layer")
    axes.set_ylabel("scale")
    axes.legend()
