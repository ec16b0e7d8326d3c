"""All rolling windows of a reply, and the step that pushes a batch of replies at once. Host memory alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .quadrants import SEED_CUTS, Cuts, Form
from .reference import WINDOW
from .window import COST, GENUINE, QUADRANTS, RATE, VARIANCE, Float64, HeadWindow, push

Float32 = npt.NDArray[np.float32]
COST_COLUMNS: Final = 4
"""figures of a head's token cost in a step: cost, relative cost, sink mass, known mass"""
_ENTROPY, _RELATIVE, _SINK = range(3)
_MEAN: Final = 2
_COST, _RELATIVE_COST, _SINK_MASS = range(3)


class HeadCounts(NamedTuple):
    """The heads in each region of the plane of genuineness, after a step.

    The first three count all heads with a G; the other four heads that have a token cost too.
    """

    genuine: int
    mechanical: int
    transition: int
    genuine_committed: int
    genuine_diffuse: int
    mechanical_committed: int
    mechanical_diffuse: int


class WindowStep(NamedTuple):
    """The figures of a reply's windows after a step.

    ``values``: in the order of WINDOW_SIGNALS, None for an absent figure. ``counts``: None where no cut
    points are known.
    """

    values: tuple[float | None, ...]
    counts: HeadCounts | None = None


@dataclass(slots=True)
class ReplyWindows:
    """The rolling windows of a reply: of its heads, of its logits entropy, and of single figures of a step.

    A step is pushed once, when its token is drawn; a branch begins with a copy.
    """

    heads: HeadWindow
    singles: HeadWindow
    """logits entropy, relative token cost, sink mass"""
    seed: HeadWindow | None = None
    """of the heads' entropies in bits, where the form ``seed`` is wanted"""

    @classmethod
    def begin(
        cls, heads: int, *, costs: bool = False, seed: bool = False, cuts: Cuts | None = None
    ) -> ReplyWindows:
        """Makes the empty windows of a reply over the ``heads`` of all monitored layers together.

        ``costs``: keep token costs; ``cuts``: calibrated cut points of the normalised form.
        """
        return cls(
            HeadWindow(heads, WINDOW, costs=costs, cuts=cuts),
            HeadWindow(3, WINDOW),
            HeadWindow(heads, WINDOW, costs=costs, cuts=SEED_CUTS) if seed else None,
        )

    @property
    def form(self) -> Form:
        """Returns the form that quadrants are counted in."""
        return "normalised" if self.seed is None else "seed"

    def head_figures(self) -> tuple[Float64, Float64]:
        """Returns G and token cost of each head now, [heads] each, in the reply's form; NaN for none."""
        variance, rate, cost = (self.seed or self.heads).figures().T
        return variance + rate, cost

    def copy(self) -> ReplyWindows:
        """Copies the windows, for a branch that continues the reply."""
        seed = None if self.seed is None else self.seed.copy()
        return ReplyWindows(self.heads.copy(), self.singles.copy(), seed)


def push_step(
    windows: Sequence[ReplyWindows],
    normalised: Float32,
    entropy: Float32,
    logits_entropy: Float32,
    costs: Float32 | None = None,
) -> list[WindowStep]:
    """Pushes one step of B replies, and returns the figures of their windows then.

    ``normalised`` and ``entropy`` float32 [B, heads]: each head's attention entropy over log2 of its visible
    keys, NaN where there is one key, and in bits; ``logits_entropy`` [B], bits; ``costs`` [B, heads, 4], NaN
    where a figure is absent. All windows have the same heads. Raises ValueError on shapes that do not fit.
    """
    cost = None if costs is None else costs[..., _COST]
    out, _ = push([w.heads for w in windows], normalised, cost)
    singles = np.full((len(windows), 3), np.nan, dtype=np.float32)
    singles[:, _ENTROPY] = logits_entropy
    if costs is not None:
        asked = [i for i, w in enumerate(windows) if w.heads.has_costs]
        for i in asked:
            singles[i, _RELATIVE] = _known_mean(costs[i, :, _RELATIVE_COST])
            singles[i, _SINK] = _known_mean(costs[i, :, _SINK_MASS])
    _, each = push([w.singles for w in windows], singles)
    seeds = {i: w.seed for i, w in enumerate(windows) if w.seed is not None}
    rows = list(seeds)
    literal = out[:0]
    if rows:
        literal, _ = push(list(seeds.values()), entropy[rows], None if cost is None else cost[rows])
    of_seed = dict(zip(rows, literal.tolist(), strict=True))
    steps = []
    for i, (row, of_singles) in enumerate(zip(out.tolist(), each.tolist(), strict=True)):
        other = of_seed.get(i)
        values = (
            row[VARIANCE] + row[RATE],
            row[VARIANCE],
            row[RATE],
            math.nan if other is None else other[VARIANCE] + other[RATE],
            of_singles[_ENTROPY][0],
            row[COST],
            of_singles[_RELATIVE][_MEAN],
            of_singles[_SINK][_MEAN],
        )
        steps.append(
            WindowStep(
                tuple([None if x != x else x for x in values]), _counts(row if other is None else other)
            )
        )
    return steps


def _known_mean(figures: Float32) -> float:
    known = figures[np.isfinite(figures)]
    return float(known.mean()) if known.size else math.nan


def _counts(row: Sequence[float]) -> HeadCounts | None:
    """Returns the heads in each region, None where no head lies in one, as without cut points."""
    counts = HeadCounts(*(int(n) for n in (*row[GENUINE:QUADRANTS], *row[QUADRANTS:])))
    return counts if any(counts[:3]) else None
