"""The actions of both presets as data: how each strategy sets the parameters of a draw.

Every formula is affine in the signals and then clipped, so a batch that mixes presets, strategies and
requests is one small product of matrices (:mod:`entropick_sampler.policy`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .params import PolicyParams, Strategy
from .signals import POLICY_SIGNALS

PARAMETERS: Final[tuple[str, ...]] = ("temperature", "top_p", "top_k", "min_p")
_SIGNAL_NAMES: Final = tuple(signal.name for signal in POLICY_SIGNALS)


@dataclass(frozen=True, slots=True)
class Formula:
    """base * (constant + sum of weight * signal) + sum of offset * signal, clipped to [low, high].

    ``keep_low``, ``keep_high``: the clip never raises, or lowers, what the base already is beyond it.
    """

    constant: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    low: float = -math.inf
    high: float = math.inf
    keep_low: bool = False
    keep_high: bool = False

    def row(self, base: float) -> tuple[list[float], float, float]:
        """Coefficients [1 + signals] (the first is the constant's), low and high for one base value."""
        coefficients = [base * self.constant]
        coefficients += [base * self.weights.get(n, 0.0) + self.offsets.get(n, 0.0) for n in _SIGNAL_NAMES]
        low = min(self.low, base) if self.keep_low else self.low
        high = max(self.high, base) if self.keep_high else self.high
        return coefficients, low, high


_BASE: Final = Formula()
_MOST_PROBABLE: Final = Formula(constant=0.0)
_H, _V, _A, _AV = "logits_entropy", "logits_varentropy", "attention_entropy", "attention_varentropy"
_INTER: Final = "interaction_strength"

Actions = Mapping[Strategy, Mapping[str, Formula]]

SEED_ACTIONS: Final[Actions] = MappingProxyType(
    {
        Strategy.GREEDY: {"temperature": _MOST_PROBABLE},
        Strategy.CLARIFY: {"temperature": Formula(1.3, {_A: 0.2}, high=1.5)},
        Strategy.EXPLORE: {
            "temperature": Formula(1.2, {_INTER: 0.3}, high=1.5),
            "top_k": Formula(1.5, {"agreement_seed": -0.5}, low=5),
        },
        Strategy.HIGH_UNCERTAINTY: {
            "temperature": Formula(2.0, {_AV: 0.5}, low=2.0),
            "top_p": Formula(1.0, {}, {_A: -0.2}, low=0.5),
        },
        Strategy.ADAPTIVE: {
            "temperature": Formula(1.0, {_H: 0.3, _V: 0.3, _A: 0.2, _AV: 0.2, "agreement_seed": -0.2}),
            "top_p": Formula(1.0, {_AV: 0.1}, low=0.1, high=1.0),
            "top_k": Formula(1.0, {_INTER: 0.3, "agreement_seed": -0.2}, low=1, high=100),
            "min_p": Formula(1.0, {_H: -0.5, _V: -0.5}, low=0.01, high=0.5),
        },
    }
)
"""The 2024 guide, on raw signals (known answers: groups 05 and 06); the text of CLARIFY already spent."""

CALIBRATED_ACTIONS: Final[Actions] = MappingProxyType(
    {
        Strategy.GREEDY: {"temperature": _MOST_PROBABLE},
        Strategy.CLARIFY: {"temperature": Formula(1.1, {_A: 0.2})},
        Strategy.EXPLORE: {
            "temperature": Formula(1.0, {_INTER: 0.3}),
            "top_k": Formula(1.5, {"agreement": -0.5}, low=5, keep_low=True),
        },
        Strategy.HIGH_UNCERTAINTY: {
            "temperature": Formula(1.1, {_AV: 0.3}),
            "top_p": Formula(1.0, {}, {_A: -0.2}, low=0.5, keep_low=True),
        },
        Strategy.ADAPTIVE: {
            "temperature": Formula(0.8, {_H: 0.15, _V: 0.15, _A: 0.05, _AV: 0.05, "agreement": -0.1}),
            "top_p": Formula(0.98, {_AV: 0.04}, low=0.1, high=1.0),
            "top_k": Formula(1.0, {_INTER: 0.3, "agreement": -0.2}, low=1),
            "min_p": Formula(1.0, {_H: -0.25, _V: -0.25}, high=0.5, keep_high=True),
        },
    }
)
"""The same shape on quantile ranks 0..1; docs/policy.md gives the reasons."""

_OFF: Final[Mapping[str, float]] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}


def _is_off(name: str, base: float) -> bool:
    """Filters that a request switched off stay off."""
    if name not in _OFF:
        return False
    return base >= _OFF[name] if name == "top_p" else base <= _OFF[name]


def table(
    params: PolicyParams, actions: Actions | None
) -> tuple[list[list[float]], list[float], list[float]]:
    """Coefficients [strategies * parameters, 1 + signals], lower and upper limits of one request's row.

    ``actions`` None: the policy is off, and every strategy keeps the base values. The temperature is limited
    to [temperature_min, temperature_max]; GREEDY is exempt.
    """
    coefficients, lows, highs = [], [], []
    for strategy in Strategy:
        chosen = actions[strategy] if actions is not None else {}
        for name in PARAMETERS:
            base = float(getattr(params, name))
            formula = _BASE if _is_off(name, base) else chosen.get(name, _BASE)
            row, low, high = formula.row(base)
            if name == "temperature" and actions is not None and strategy is not Strategy.GREEDY:
                # max and min of the formula's own clip and the row's: the outer limits win
                floor, ceiling = params.temperature_min, params.temperature_max
                low, high = min(max(low, floor), ceiling), max(min(high, ceiling), floor)
            coefficients.append(row)
            lows.append(low)
            highs.append(high)
    return coefficients, lows, highs
