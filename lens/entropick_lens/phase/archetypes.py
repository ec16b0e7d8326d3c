"""Whether token cost and genuineness tell heads of known habits from the others.

The source names the quadrants after such heads without a test. Here a habit is a score of its own: a head has
it where the score is among the highest tenth, and the area under the ROC curve (AUC) says how well a figure
ranks those heads above the others: .5 is chance, 0 ranks them all below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from entropick_sampler.genuineness.quadrants import Quadrant

Array = npt.NDArray[np.float64]
TOP: Final = 0.1
"""share of heads that have a habit"""
ROUNDS: Final = 1000
ARCHETYPES: Final[Mapping[Quadrant, str]] = {
    Quadrant.MECHANICAL_COMMITTED: "induction",
    Quadrant.MECHANICAL_DIFFUSE: "broadcast",
}
"""the habits after which the source names quadrants, as far as a score for them exists"""
UNTESTED: Final[Mapping[Quadrant, str]] = {Quadrant.GENUINE_DIFFUSE: "name mover"}
"""names for which there is no score without a task"""


@dataclass(frozen=True, slots=True)
class Separation:
    """The test whether a figure, or being in a quadrant, ranks the heads of a habit above the others."""

    habit: str
    figure: str
    """of the plane, or the label of a quadrant"""
    form: str
    """of the label; empty for a figure"""
    heads: int
    positives: int
    """heads that have the habit"""
    auc: float | None
    """None where all heads or none have the habit"""
    low: float | None
    """the 95 % interval: layers drawn again"""
    high: float | None

    @property
    def chance(self) -> bool:
        """Tells whether the interval includes chance, or nothing is known."""
        return self.low is None or self.high is None or self.low <= 0.5 <= self.high


def auc(values: Array, positive: npt.NDArray[np.bool_], weights: Array | None = None) -> float | None:
    """Computes the area under the ROC curve of values [n] for the positive values; ties count half.

    ``weights`` [n]: how often each counts. Returns None where there are no positives or no others.
    """
    w = np.ones(len(values)) if weights is None else weights
    yes, no = np.where(positive, w, 0.0), np.where(positive, 0.0, w)
    if yes.sum() == 0 or no.sum() == 0:
        return None
    _, place = np.unique(values, return_inverse=True)
    ups, downs = np.bincount(place, yes), np.bincount(place, no)
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / (yes.sum() * no.sum()))


def top_heads(scores: Array) -> npt.NDArray[np.bool_]:
    """Marks the highest tenth of the scores [n], ties included and never empty; none where all are equal."""
    if not np.ptp(scores):
        return np.zeros(len(scores), dtype=np.bool_)
    count = max(1, round(TOP * len(scores)))
    return np.asarray(scores >= np.sort(scores)[-count])


def separation(
    habit: str, scores: Array, figure: str, values: Array, layer_of: npt.NDArray[np.int64], seed: int,
    form: str = "",
) -> Separation:  # fmt: skip
    """Tests a figure [n] against a habit's scores [n] over heads in layers [n].

    Heads without a number are left out.
    """
    known = np.isfinite(values) & np.isfinite(scores)
    x, layer = values[known], layer_of[known]
    positive = top_heads(scores[known]) if known.any() else np.zeros(0, dtype=np.bool_)
    found = auc(x, positive)
    low = high = None
    if found is not None:
        rng = np.random.default_rng(seed)
        names, group = np.unique(layer, return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=ROUNDS)
        drawn = [auc(x, positive, row[group].astype(np.float64)) for row in counts]
        values_drawn = [value for value in drawn if value is not None]
        if len(names) >= 3 and len(values_drawn) > ROUNDS / 2:
            low, high = (float(v) for v in np.percentile(values_drawn, [2.5, 97.5]))
    return Separation(habit, figure, form, int(known.sum()), int(positive.sum()), found, low, high)
