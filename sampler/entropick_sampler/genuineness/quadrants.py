"""The plane of genuineness: token cost to the right, G upwards, and the cut points between its regions."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .reference import WINDOW

Step = TypeVar("Step")
Form = Literal["normalised", "seed"]
"""what G is made of: the entropy over log2 of the visible keys, or the entropy in bits"""


class Quadrant(enum.IntEnum):
    """The regions of the plane, in the order of every list of their counts."""

    GENUINE_COMMITTED = 0
    GENUINE_DIFFUSE = 1
    MECHANICAL_COMMITTED = 2
    MECHANICAL_DIFFUSE = 3
    TRANSITION = 4

    @property
    def label(self) -> str:
        """Returns the name on the wire and in metrics."""
        return self.name.lower()


UNKNOWN: Final = -1
"""The place of a head without G, or, outside of TRANSITION, without a token cost."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cut points of the plane; they hold for one form and one length of window.

    G >= ``genuine`` is GENUINE, G <= ``mechanical`` MECHANICAL, between them TRANSITION whatever the cost;
    a token cost >= ``cost`` (bits) is COMMITTED, else DIFFUSE. ``pull``: a reply whose score falls from its
    beginning to its end by more than that (a number below 0) is pulled; None where nothing tells.
    """

    cost: float
    genuine: float
    mechanical: float
    window: int
    form: Form = "normalised"
    pull: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for cut points that are not finite, and where the two of G leave no room between.

        A constant G has no quadrants: then there must be no Cuts at all.
        """
        if not all(map(math.isfinite, (self.cost, self.genuine, self.mechanical, self.pull or 0.0))):
            raise ValueError("the cut points of genuineness must be finite numbers")
        if not self.mechanical < self.genuine:
            raise ValueError(
                f"mechanical must be below genuine, got {self.mechanical} and {self.genuine}: where G is "
                "constant there are no quadrants"
            )
        if self.pull is not None and not self.pull < 0:
            raise ValueError(f"pull must be below 0, got {self.pull}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")


SEED_CUTS: Final = Cuts(cost=5.0, genuine=0.275, mechanical=0.175, window=64, form="seed", pull=-0.1)
"""The source's cut points: .50, .55, .35 and a pull of -.20, on its scales X / 10 and G / 0.5."""
PULLED: Final = 0.05
"""share of the calibration text's points that count as pulled"""


def counted(steps: Sequence[Step]) -> list[Step]:
    """Returns the steps of a reply at which its heads count: at every full window, and at its end."""
    full = list(steps[WINDOW - 1 :: WINDOW])
    return full + list(steps[-1:]) if len(steps) % WINDOW else full


def classify(genuineness: npt.ArrayLike, cost: npt.ArrayLike, cuts: Cuts) -> npt.NDArray[np.int64]:
    """Returns the quadrant of each head, as a number of :class:`Quadrant` or UNKNOWN.

    ``genuineness`` and ``cost`` (bits) are broadcast; NaN where a head has none.
    """
    g, x = np.broadcast_arrays(np.asarray(genuineness, np.float64), np.asarray(cost, np.float64))
    committed = np.where(x >= cuts.cost, 0, 1)
    found = np.where(g >= cuts.genuine, committed, 2 + committed)
    found = np.where(np.isnan(x), UNKNOWN, found)
    between = (g > cuts.mechanical) & (g < cuts.genuine)
    found = np.where(between, int(Quadrant.TRANSITION), found)
    return np.where(np.isnan(g), UNKNOWN, found).astype(np.int64)


def calibrated_cuts(
    genuineness: npt.ArrayLike,
    cost: npt.ArrayLike,
    window: int,
    form: Form = "normalised",
    falls: npt.ArrayLike = (),
) -> Cuts | None:
    """Computes the cut points from the heads' figures over calibration text: tertiles of G, median cost.

    ``falls``: changes of the score from the beginning of a text to a later point of it, as
    :func:`.reference.elaboration_pull` gives them; their 5 % quantile is the cut of the pull, where it is a
    fall.

    By construction a third of these windows is TRANSITION and half of them COMMITTED: what a share tells is
    its change. NaN figures are left out. Returns None where the tertiles of G are equal, or nothing is known.
    """
    g, x = (np.asarray(values, np.float64).ravel() for values in (genuineness, cost))
    g, x = g[np.isfinite(g)], x[np.isfinite(x)]
    if not g.size or not x.size:
        return None
    low, high = np.quantile(g, (1 / 3, 2 / 3))
    if not low < high:
        return None
    changes = np.asarray(falls, np.float64)
    pull = float(np.quantile(changes, PULLED)) if changes.size else 0.0
    return Cuts(float(np.median(x)), float(high), float(low), window, form, pull if pull < 0 else None)
