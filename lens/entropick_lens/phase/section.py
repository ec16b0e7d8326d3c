"""The section ``phase_space``: every head over a text by token cost and genuineness, in both forms.

The definitions are the live figure's (``entropick_sampler.genuineness``); the window is a whole text. The
model runs twice, once for the surprisals of the texts' tokens, once for the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np

from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.genuineness.reference import LEAST

from ..forward import run_texts
from ..grids import OptionalGrid
from ..section import InspectError, Model, Options, Section
from ..texts import Text, read_texts
from .archetypes import ARCHETYPES, Separation, separation
from .collect import Array, HeadSeries, SeriesVisitor, nan_mean, repeated_texts, text_means
from .figures import PhaseSpace, Plane, between_texts, halves_r, optional_grid, plane, r_over_heads
from .plots import plots
from .sentences import sentences
from .surprisal import token_surprisals

REPEATS: Final = 4
QUICK_REPEATS: Final = 1


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> PhaseSpace:
    """Runs the texts, and texts of repeated random tokens, through the model and places every head."""
    texts = read_texts(model, options)
    surprisals = token_surprisals(model, texts, options)
    count = QUICK_REPEATS if options.quick else REPEATS
    repeated = repeated_texts(model, texts[0].ids[0], count, options.seed)
    visitor = SeriesVisitor(surprisals, len(texts))
    run_texts(model, [*texts, *repeated], visitor, what="phase space", quiet=options.quiet)
    return placed(visitor.series(), texts, surprisals.numpy(), count, options)


def placed(
    series: HeadSeries, texts: list[Text], surprisals: Array, repeated: int, options: Options
) -> PhaseSpace:
    """Builds the result from the heads' series. Raises InspectError where no text is long enough for a G."""
    lengths = [hi - lo for lo, hi in series.bounds]
    if max(lengths) < LEAST:
        raise InspectError(
            f"--text: no text has {LEAST + 1} tokens, which a variance needs; longer ones are needed"
        )
    layers = series.layers
    cost = text_means(series, series.cost)
    planes = tuple(plane(series, form, cost, options.length, options.seed) for form in ("normalised", "seed"))
    grids = {
        name: optional_grid(nan_mean(text_means(series, values)), layers)
        for name, values in (
            ("cost_relative", series.relative),
            ("sink", series.sink),
            ("previous", series.previous),
            ("broadcast", series.normalised),
        )
    }
    grids["cost"] = optional_grid(nan_mean(cost), layers)
    grids["induction"] = optional_grid(series.induction, layers)
    figures = {
        "token cost": grids["cost"],
        "relative token cost": grids["cost_relative"],
        "G normalised": planes[0].genuineness,
        "G seed": planes[1].genuineness,
    }
    habits = {name: grids[name] for name in ("induction", "previous", "sink", "broadcast")}
    layer_of = np.repeat(np.arange(layers), series.heads)
    behind_first = np.concatenate([surprisals[lo + 1 : hi] for lo, hi in _bounds(texts)])
    return PhaseSpace(
        texts=len(texts),
        tokens=len(series.entropy),
        short_texts=sum(length < LEAST for length in lengths) + len(texts) - len(lengths),
        mean_surprisal=float(behind_first.mean()),
        cost_of_text=between_texts(cost),
        cost_reliability=halves_r(cost),
        repeated=repeated,
        planes=planes,
        forms_r=r_over_heads(flat(planes[0].genuineness), flat(planes[1].genuineness)),
        separations=tuple(
            separation(habit, flat(scores), figure, flat(values), layer_of, options.seed)
            for habit, scores in habits.items()
            for figure, values in figures.items()
        ),
        label_separations=tuple(
            _label(one, quadrant, habits[habit], layer_of, options.seed)
            for one in planes
            if one.labels
            for quadrant, habit in ARCHETYPES.items()
        ),
        **grids,
    )


def _label(of: Plane, quadrant: Quadrant, scores: OptionalGrid, layer_of: Any, seed: int) -> Separation:
    inside = np.array([[label == quadrant.label for label in row] for row in of.labels], dtype=np.float64)
    habit = ARCHETYPES[quadrant]
    return separation(habit, flat(scores), quadrant.label, inside.ravel(), layer_of, seed, of.form)


def _bounds(texts: list[Text]) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *(len(text.ids) for text in texts)]).tolist()
    return list(pairwise(ends))


def flat(grid: OptionalGrid) -> Array:
    """Returns a grid as [layers x heads], NaN for None."""
    return np.array([np.nan if x is None else x for row in grid for x in row], dtype=np.float64)


SECTION: Final = Section(
    name="phase_space",
    title="Heads: phase space of token cost and genuineness",
    version=1,
    result=PhaseSpace,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("text", "tokens", "length", "seed", "quick"),
)
