"""The formulas of both presets as data: how each strategy sets the parameters of a draw.

Every formula is affine in the signals and then clipped, so a batch that mixes presets, strategies and
requests is a small product for each row (:mod:`entropick_sampler.policy`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .params import PolicyParams, PresetName
from .signals import POLICY_SIGNALS
from .strategy import Strategy

Floats = npt.NDArray[np.float64]

PARAMETERS: Final[tuple[str, ...]] = ("temperature", "top_p", "top_k", "min_p")
_TEMPERATURE: Final = PARAMETERS.index("temperature")
_SIGNAL_NAMES: Final = tuple(signal.name for signal in POLICY_SIGNALS)


@dataclass(frozen=True, slots=True)
class Formula:
    """A parameter as a function of its base value and the signals.

    base * (constant + sum of weight * signal) + sum of offset * signal, clipped to [low, high]. ``keep_low``,
    ``keep_high``: the clip never raises, or lowers, what the base already is beyond it.
    """

    constant: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    low: float = -math.inf
    high: float = math.inf
    keep_low: bool = False
    keep_high: bool = False


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
        Strategy.CLARIFY: {"temperature": Formula(1.1)},
        Strategy.EXPLORE: {"top_k": Formula(1.5, low=5, keep_low=True)},
        Strategy.HIGH_UNCERTAINTY: {"temperature": Formula(1.1)},
        Strategy.ADAPTIVE: {
            "temperature": Formula(0.8, {_H: 0.15, _V: 0.15}),
            "min_p": Formula(1.0, {_H: -0.25, _V: -0.25}, high=0.5, keep_high=True),
        },
    }
)
"""The same on quantile ranks 0..1, without the terms of the attention signals, which changed no answer
measurably; docs/policy.md gives the figures."""


class Table(NamedTuple):
    """The formulas of the 5 strategies and 4 parameters as arrays of numbers.

    ``coefficients`` [5, 4, S], ``constants``, ``low``, ``high`` [5, 4]: a parameter is the constant plus the
    sum of coefficient * signal, clipped to [low, high].
    """

    coefficients: Floats
    constants: Floats
    low: Floats
    high: Floats


class _Formulas(NamedTuple):
    """The fields of :class:`Formula` for every strategy and parameter, [5, 4] or [5, 4, S]."""

    constant: Floats
    weights: Floats
    offsets: Floats
    low: Floats
    high: Floats
    keep_low: npt.NDArray[np.bool_]
    keep_high: npt.NDArray[np.bool_]


def _arrays(actions: Actions) -> _Formulas:
    chosen = [[actions.get(strategy, {}).get(name, _BASE) for name in PARAMETERS] for strategy in Strategy]

    def of(name: str) -> Any:
        return np.array([[getattr(formula, name) for formula in row] for row in chosen])

    def by_signal(name: str) -> Any:
        rows = [[getattr(formula, name) for formula in row] for row in chosen]
        return np.array([[[cell.get(n, 0.0) for n in _SIGNAL_NAMES] for cell in row] for row in rows])

    return _Formulas(
        of("constant"),
        by_signal("weights"),
        by_signal("offsets"),
        of("low"),
        of("high"),
        of("keep_low"),
        of("keep_high"),
    )


_FORMULAS: Final[Mapping[PresetName | None, _Formulas]] = MappingProxyType(
    {None: _arrays({}), "seed": _arrays(SEED_ACTIONS), "calibrated": _arrays(CALIBRATED_ACTIONS)}
)


def table(params: PolicyParams, preset: PresetName | None) -> Table:
    """Returns the formulas of a preset for the base values of one request.

    ``preset`` None: the policy is off, and every strategy keeps the base values. A filter that the request
    switched off stays off. The temperature is limited to [temperature_min, temperature_max]; GREEDY is
    exempt.
    """
    f, plain = _FORMULAS[preset], _FORMULAS[None]
    base = np.array([float(getattr(params, name)) for name in PARAMETERS])
    off = np.array((False, params.top_p >= 1.0, params.top_k <= 0, params.min_p <= 0.0))
    constants = base * np.where(off, plain.constant, f.constant)
    weights, offsets = (np.where(off[:, None], 0.0, part) for part in (f.weights, f.offsets))
    low = np.where(f.keep_low, np.minimum(f.low, base), f.low)
    high = np.where(f.keep_high, np.maximum(f.high, base), f.high)
    low, high = np.where(off, plain.low, low), np.where(off, plain.high, high)
    if preset is not None:
        # max and min of the formula's own clip and the row's: the outer limits win
        floor, ceiling = params.temperature_min, params.temperature_max
        limited = slice(Strategy.CLARIFY, None), _TEMPERATURE
        low[limited] = np.clip(low[limited], floor, ceiling)
        high[limited] = np.maximum(np.minimum(high[limited], ceiling), floor)
    return Table(base[:, None] * weights + offsets, constants, low, high)
