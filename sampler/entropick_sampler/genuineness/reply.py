"""All rolling windows of a reply. Host memory alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .counts import AXIS
from .quadrants import SEED_CUTS, UNKNOWN, Cuts, Form, Quadrant, classify
from .reference import WINDOW
from .window import Float64, HeadWindow

COST_COLUMNS: Final = 4
"""figures of a head's token cost in a step: cost, relative cost, sink mass, known mass"""


@dataclass(slots=True, eq=False)
class ReplyWindows:
    """The rolling windows of a reply: of its heads, of its logits entropy, and of single figures of a step.

    A step is pushed once, when its token is drawn; a branch begins with a copy.
    """

    heads: HeadWindow
    singles: HeadWindow
    """logits entropy, relative token cost, sink mass"""
    seed: HeadWindow | None = None
    """of the heads' entropies in bits, where the form ``seed`` is wanted"""
    cuts: Cuts | None = None
    """calibrated cut points of the normalised form"""

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
            cuts,
        )

    @property
    def places(self) -> tuple[int, int, int]:
        """Returns the addresses of the windows of heads, of the form ``seed`` (0 for none), and of singles.

        They are valid as long as the windows live.
        """
        return self.heads.place, 0 if self.seed is None else self.seed.place, self.singles.place

    @property
    def form(self) -> Form:
        """Returns the form that quadrants are counted in."""
        return "normalised" if self.seed is None else "seed"

    def head_figures(self) -> tuple[Float64, Float64]:
        """Returns G and token cost of each head now, [heads] each, in the reply's form; NaN for none."""
        variance, rate, cost = (self.seed or self.heads).figures().T
        return variance + rate, cost

    def head_regions(self) -> list[str | None] | None:
        """Returns the region of each head now: its quadrant, or without token costs its side of G's axis.

        None in the place of a head without a G, or without a cost that is kept; None where no cut points are
        known.
        """
        cuts = self.cuts if self.seed is None else SEED_CUTS
        if cuts is None:
            return None
        score, cost = self.head_figures()
        if self.heads.has_costs:
            return [None if q == UNKNOWN else Quadrant(q).label for q in classify(score, cost, cuts).tolist()]
        return [
            None if g != g else AXIS[0 if g >= cuts.genuine else 1 if g <= cuts.mechanical else 2]
            for g in score.tolist()
        ]

    def copy(self) -> ReplyWindows:
        """Copies the windows, for a branch that continues the reply."""
        seed = None if self.seed is None else self.seed.copy()
        return ReplyWindows(self.heads.copy(), self.singles.copy(), seed, self.cuts)
