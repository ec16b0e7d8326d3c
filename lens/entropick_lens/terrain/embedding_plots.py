"""The plots of the section ``embedding``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..section import Plot
from .embedding_terrain import EmbeddingTerrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(found: EmbeddingTerrain) -> tuple[Plot, ...]:
    """Returns the plots of an embedding's terrain."""
    drawn = [
        Plot(
            "spectrum",
            "Eigenvalues of the rows' covariance, largest first, on log axes. A flat line is noise; a steep "
            "fall "
            f"means few directions. Dotted: rank {found.spectrum.dimensions.get('90', 0)}, which holds 90 %.",
            lambda figure: _spectrum(figure, found),
        ),
        Plot(
            "norms",
            "Norms of the rows, all tokens; the count on a log axis. Tokens far left were hardly trained.",
            lambda figure: _norms(figure, found),
        ),
        Plot(
            "cosines",
            f"Cosines of all pairs of {found.pairs.rows:,} random tokens, over a normal curve of random "
            f"directions "
            "(dashed).",
            lambda figure: _cosines(figure, found),
        ),
        Plot(
            "simplices",
            "Variation of simplex volumes with its 95 % interval, over its nulls and the value that "
            "participation "
            "ratio and norms predict.",
            lambda figure: _simplices(figure, found),
        ),
    ]
    if found.digits is not None:
        drawn.append(
            Plot(
                "digits",
                "Cosines of the digits: bright along the diagonal where near numbers lie near each other.",
                lambda figure: _digits(figure, found),
                (5.0, 4.2),
            )
        )
    if found.categories:
        drawn.append(
            Plot(
                "categories",
                "Mean cosine within each category less the mean of all pairs (dots), over random sets of as "
                "many "
                "words (mean ± 2 deviations).",
                lambda figure: _categories(figure, found),
                (7.5, 1.0 + 0.28 * len(found.categories)),
            )
        )
    return tuple(drawn)


def _spectrum(figure: Figure, found: EmbeddingTerrain) -> None:
    axes = figure.subplots()
    values = found.spectrum.eigenvalues
    axes.loglog(range(1, len(values) + 1), [max(v, 1e-12) for v in values])
    axes.axvline(found.spectrum.dimensions.get("90", 1), linestyle=":", color="gray")
    axes.set_xlabel("rank")
    axes.set_ylabel("eigenvalue")


def _norms(figure: Figure, found: EmbeddingTerrain) -> None:
    axes = figure.subplots()
    edges = [low for low, _ in found.norm_histogram]
    step = edges[1] - edges[0] if len(edges) > 1 else 1.0
    axes.bar(edges, [count for _, count in found.norm_histogram], width=step, align="edge", log=True)
    axes.set_xlabel("norm of the row")
    axes.set_ylabel("tokens")


def _cosines(figure: Figure, found: EmbeddingTerrain) -> None:
    import numpy as np

    axes = figure.subplots()
    counts = np.array(found.pairs.histogram, dtype=float)
    width = 2.0 / counts.size
    centres = -1.0 + width * (np.arange(counts.size) + 0.5)
    axes.fill_between(centres, counts / counts.sum() / width, step="mid", alpha=0.6)
    null = found.pairs.null_deviation
    axes.plot(centres, np.exp(-((centres / null) ** 2) / 2) / null / np.sqrt(2 * np.pi), "--", color="gray")
    axes.set_xlabel("cosine")
    axes.set_ylabel("density")


def _simplices(figure: Figure, found: EmbeddingTerrain) -> None:
    axes = figure.subplots()
    s = found.simplices
    bars = (
        ("measured", s.variation),
        ("predicted", s.predicted),
        ("own norms", s.own_norms),
        ("same covariance", s.same_covariance),
        ("Gaussian", s.gaussian),
    )
    known = [(name, value) for name, value in bars if value is not None]
    axes.barh([name for name, _ in known], [value for _, value in known])
    if s.interval is not None and s.variation is not None:
        axes.errorbar(
            [s.variation],
            [0],
            xerr=[[max(0.0, s.variation - s.interval[0])], [max(0.0, s.interval[1] - s.variation)]],
            color="black",
            capsize=4,
        )
    axes.invert_yaxis()
    axes.set_xlabel("deviation / mean of the volumes")


def _digits(figure: Figure, found: EmbeddingTerrain) -> None:
    if found.digits is None:
        return
    axes = figure.subplots()
    image = axes.imshow(found.digits.cosines, vmin=-1.0, vmax=1.0, cmap="RdBu_r")
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    figure.colorbar(image, ax=axes, label="cosine")


def _categories(figure: Figure, found: EmbeddingTerrain) -> None:
    axes = figure.subplots()
    lifts = sorted(found.categories, key=lambda lift: lift.lift)
    names = [f"{lift.category} ({lift.words})" for lift in lifts]
    axes.errorbar(
        [lift.random_mean for lift in lifts],
        range(len(lifts)),
        xerr=[2 * lift.random_deviation for lift in lifts],
        fmt="|",
        color="gray",
    )
    axes.scatter([lift.lift for lift in lifts], range(len(lifts)))
    axes.set_yticks(range(len(lifts)), names)
    axes.axvline(0.0, linewidth=0.5, color="gray")
    axes.set_xlabel("mean cosine within, less the mean of all pairs")
