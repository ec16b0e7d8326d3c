"""Circuit rates: the speed at which genuineness falls and rises from layer to layer, beside that of chance.

The source's model is dG/dt = -k G at a step of pattern matching and k (1 - G) at a genuine one. Its code
clips each step at 0, which makes noise a rate, and returns constants where it has nothing to fit; neither is
done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CircuitRates:
    """The rates of a trajectory of G; a rate without a step is None."""

    degrade: float | None
    """mean of -ln(G'/G) over steps of pattern matching"""
    degrade_steps: int
    recover: float | None
    """mean of -ln((1 - G')/(1 - G)) over genuine steps"""
    recover_steps: int

    @property
    def ratio(self) -> float | None:
        """Returns recovery over degradation; None where one of them is absent or degradation is 0."""
        if self.degrade is None or self.recover is None or self.degrade == 0.0:
            return None
        return self.recover / self.degrade


@dataclass(frozen=True, slots=True)
class CircuitTest:
    """The rates of the layers in their order, and of the same layers in random orders."""

    rates: CircuitRates
    degrade_low: float | None
    """2.5 percentile over random orders"""
    degrade_high: float | None
    recover_low: float | None
    recover_high: float | None
    orders: int


def circuit_rates(trajectory: Sequence[float], genuine: Sequence[bool | None]) -> CircuitRates:
    """Computes the rates of a trajectory of L values in 0..1 with L - 1 steps.

    ``genuine``: True for a genuine step, False for one of pattern matching, None for neither. A step counts
    where its logarithm exists: a value of 0 falls no further and one of 1 rises no further. Raises ValueError
    where the steps do not fit the values.
    """
    if len(genuine) != len(trajectory) - 1:
        raise ValueError(f"{len(trajectory)} values have {len(trajectory) - 1} steps, not {len(genuine)}")
    falls: list[float] = []
    rises: list[float] = []
    for before, after, kind in zip(trajectory[:-1], trajectory[1:], genuine, strict=True):
        if kind is False and before > 0 and after > 0:
            falls.append(-math.log(after / before))
        elif kind is True and before < 1 and after < 1:
            rises.append(-math.log((1 - after) / (1 - before)))
    return CircuitRates(_mean(falls), len(falls), _mean(rises), len(rises))


def steps_of(
    trajectory: npt.NDArray[np.float64], genuine: float | None, mechanical: float | None
) -> list[bool | None]:
    """Names the step to each layer but the first.

    A step is genuine where it leads to a layer at or above the upper cut point of G, pattern matching where
    it leads to a layer at or below the lower, else None.
    """
    if genuine is None or mechanical is None:
        return [None] * (len(trajectory) - 1)
    return [True if g >= genuine else False if g <= mechanical else None for g in trajectory[1:].tolist()]


def rates_beside_chance(
    trajectory: npt.NDArray[np.float64],
    genuine: float | None,
    mechanical: float | None,
    orders: int,
    seed: int,
) -> CircuitTest:
    """Computes the rates of layers, and their range over random orders of the layers.

    A step is named by where it leads, so that recovery is positive and degradation too whatever the order:
    only rates outside of the range say something about the order.
    """

    def of(values: npt.NDArray[np.float64]) -> CircuitRates:
        return circuit_rates(values.tolist(), steps_of(values, genuine, mechanical))

    rng = np.random.default_rng(seed)
    found = [of(rng.permutation(trajectory)) for _ in range(orders)]
    falls, rises = _range([r.degrade for r in found]), _range([r.recover for r in found])
    return CircuitTest(of(trajectory), *falls, *rises, orders)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _range(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
