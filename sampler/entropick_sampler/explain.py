"""The rule that picked a token, in words: which region it lay in, and how its draw's parameters came about.

The words are made of the tables that :func:`entropick_sampler.policy.decide` reads (cut points, formulas,
ranks), so they cannot say something else than it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from .compose import CUTS, N_SIGNALS, RANK_STEP, ROUNDING, SIDES, ResolvedPolicy, opening_table, rank_tables
from .formulas import PARAMETERS, Table, table
from .params import PolicyParams, PresetName
from .profile import QUANTILE_LEVELS, Profile
from .signals import POLICY_SIGNALS
from .strategy import Strategy

_NAMES: Final = tuple(signal.name for signal in POLICY_SIGNALS)
_OFF: Final = {"top_p": 1.0, "top_k": 0.0, "min_p": 0.0}
"""The values at which a filter is off; of top_p also above, of the others below."""


class Condition(NamedTuple):
    """A comparison of a signal with a cut point, which is strict."""

    signal: str
    value: float
    above: bool
    cut: str
    limit: float

    @property
    def holds(self) -> bool:
        """Tells whether the signal lies on the side that the region asks for."""
        return self.value > self.limit if self.above else self.value < self.limit

    def words(self) -> str:
        """Returns the comparison as it came out."""
        sign = (">" if self.above else "<") if self.holds else ("<=" if self.above else ">=")
        return f"{self.signal} {_short(self.value)} {sign} {self.cut} {_short(self.limit)}"


@dataclass(frozen=True, slots=True)
class Explained:
    """The rule of a token in words, and of each parameter of its draw how it came about, by name."""

    rule: str
    parameters: Mapping[str, str]


class PolicyWords:
    """The rules of a request's policy, ready to be told of any of its tokens."""

    def __init__(self, policy: ResolvedPolicy, name: str) -> None:
        """Prepares the rules of a policy. ``name``: of the policy, on the wire."""
        self._policy = policy
        self._name = name
        preset: PresetName = "calibrated" if policy.profile else "seed"
        self._table: Table = table(policy.params, preset if policy.enabled else None)

    def explain(self, strategy: Strategy | None, signals: Mapping[str, float | None]) -> Explained:
        """Tells the rule of a token that was drawn.

        ``strategy``: as it was reported; ``signals``: by name, None where not measured.
        """
        values = [signals.get(name) for name in _NAMES]
        repeated = int(signals.get("repeated_suffix") or 0)
        if strategy is None or not self._policy.enabled:
            return Explained(self._plain(), self._off_parameters())
        looping = 0 < self._policy.params.loop_length <= repeated
        rule = self._region(strategy, values)
        if looping:
            length = self._policy.params.loop_length
            rule += f"; in a loop: repeated_suffix {repeated} >= loop_length {length}, so never greedy"
        return Explained(rule, self._parameters(strategy, values, looping))

    def conditions(self, region: Strategy, values: Sequence[float | None]) -> list[Condition]:
        """Lists the comparisons of a region other than ADAPTIVE with a token's signals."""
        params = self._policy.params
        return [
            Condition(
                _NAMES[axis],
                values[axis] or 0.0,
                bool(SIDES[axis, region] > 0),
                CUTS[axis][region],
                getattr(params, CUTS[axis][region]),
            )
            for axis in range(2)
        ]

    def values(self, strategy: Strategy, values: Sequence[float | None], looping: bool) -> dict[str, float]:
        """Computes the parameters of the draw under a strategy, by name."""
        seen, numbers = self._seen(values), {}
        cells = self._table
        for p, name in enumerate(PARAMETERS):
            value = float(cells.coefficients[strategy, p] @ seen + cells.constants[strategy, p])
            value = min(max(value, float(cells.low[strategy, p])), float(cells.high[strategy, p]))
            value = (value + float(ROUNDING[strategy, p])) - float(ROUNDING[strategy, p])
            numbers[name] = float(int(value)) if name == "top_k" else value
        if looping:
            numbers["temperature"] = max(numbers["temperature"], self._loop_temperature)
        return numbers

    @property
    def _loop_temperature(self) -> float:
        return min(self._policy.params.loop_temperature, self._policy.params.temperature_max)

    def _region(self, strategy: Strategy, values: Sequence[float | None]) -> str:
        if strategy is not Strategy.ADAPTIVE:
            words = " and ".join(condition.words() for condition in self.conditions(strategy, values))
            return words + (self._discriminant(values) if strategy is Strategy.CLARIFY else "")
        missed = []
        for region in Strategy:
            if region is Strategy.ADAPTIVE:
                continue
            failed = [c.words() for c in self.conditions(region, values) if not c.holds]
            if failed:
                missed.append(f"not {region.label}: {failed[0]}")
            elif region is Strategy.CLARIFY:
                missed.append(f"not clarify{self._discriminant(values, holds=False)}")
        return "; ".join(missed)

    def _discriminant(self, values: Sequence[float | None], *, holds: bool = True) -> str:
        """Returns the words on CLARIFY's discriminant, "" where the profile has none."""
        profile = self._policy.profile
        if profile is None or not (profile.clarify_weights or profile.opening_weights):
            return ""
        weights = profile.clarify_weights
        total = sum(weight * (values[_NAMES.index(name)] or 0.0) for name, weight in weights.items())
        sign = ">" if holds else "<="
        if len(opening_table(profile).ids):
            return (
                f" and discriminant {_short(total)} + the opening score of the reply's first token {sign} "
                f"{_short(-profile.clarify_bias)}"
            )
        return f" and discriminant {_short(total)} {sign} {_short(-profile.clarify_bias)}"

    def _plain(self) -> str:
        if self._policy.formula is not None:
            formula, numbers = self._policy.formula
            given = ", ".join(f"{name} {_short(getattr(numbers, name))}" for name in formula.names)
            return f"policy {self._name}: {formula.sets}: {formula.meaning} ({given})"
        if self._name == "fixed":
            return "policy fixed: an ordinary sampler"
        return "temperature 0 was asked for: the most probable token"

    def _off_parameters(self) -> dict[str, str]:
        params, formula = self._policy.params, self._policy.formula
        if params.temperature <= 0:
            return {"temperature": "temperature 0"}
        words = {name: f"{name} {_short(float(getattr(params, name)))}" for name in PARAMETERS}
        words = {name: text for name, text in words.items() if not _is_off(name, getattr(params, name))}
        if formula is not None:
            words[formula[0].sets] = f"{formula[0].sets}: by the formula"
        return words

    def _parameters(
        self, strategy: Strategy, values: Sequence[float | None], looping: bool
    ) -> dict[str, str]:
        words, cells, seen = {}, self._table, self._seen(values)
        numbers = self.values(strategy, values, looping=False)
        greedy = self.values(strategy, values, looping)["temperature"] <= 0
        for p, name in enumerate(PARAMETERS):
            value = numbers[name]
            # at temperature 0 the filters do nothing
            if _is_off(name, value) or (greedy and name != "temperature"):
                continue
            terms = [_short(float(cells.constants[strategy, p]))]
            for i in np.flatnonzero(cells.coefficients[strategy, p]):
                rank = " rank" if self._policy.profile else ""
                coefficient = float(cells.coefficients[strategy, p, i])
                sign = "+" if coefficient >= 0 else "-"
                terms.append(
                    f"{sign} {_short(abs(coefficient))} x {_NAMES[i]}{rank} {_short(float(seen[i]))}"
                )
            text = f"{name} {_short(value)}"
            if len(terms) > 1:
                text += f" = {' '.join(terms)}"
            raw = float(cells.coefficients[strategy, p] @ seen + cells.constants[strategy, p])
            low, high = float(cells.low[strategy, p]), float(cells.high[strategy, p])
            if not low <= raw <= high:
                text += f", limited to {_short(low if raw < low else high)}"
            if name == "temperature" and looping and value < self._loop_temperature:
                text += f", raised to loop_temperature {_short(self._loop_temperature)}"
            words[name] = text
        return words

    def _seen(self, values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Returns the signals as the formulas read them: quantile ranks under ``calibrated``, [S]."""
        profile = self._policy.profile
        if profile is None:
            return np.array([value or 0.0 for value in values], np.float64)
        return np.array([0.5 if v is None else signal_rank(profile, i, v) for i, v in enumerate(values)])


def signal_rank(profile: Profile, signal: int, value: float) -> float:
    """Returns the place of a value among the quantiles of a signal, as ``policy.quantile_ranks`` does.

    ``signal``: its number among POLICY_SIGNALS, below ``N_SIGNALS``.
    """
    if not 0 <= signal < N_SIGNALS:
        raise ValueError(f"signal must be 0 to {N_SIGNALS - 1}")
    ranks = rank_tables(profile)
    share = np.clip((value - ranks.low[signal]) * ranks.scale[signal], 0.0, 1.0)
    return float(share @ RANK_STEP) + QUANTILE_LEVELS[0]


def policy_numbers(policy: ResolvedPolicy) -> dict[str, float]:
    """Returns the numbers of a policy that are in force, of its strategies or of its formula, by name."""
    params = policy.params
    base = {name: float(getattr(params, name)) for name in PARAMETERS}
    if policy.formula is not None:
        formula, numbers = policy.formula
        return base | {name: float(getattr(numbers, name)) for name in formula.names}
    if not policy.enabled:
        return base
    return {name: float(getattr(params, name)) for name in PolicyParams.__dataclass_fields__}


def _is_off(name: str, value: float) -> bool:
    """Tells whether a parameter is a filter that is off."""
    limit = _OFF.get(name)
    return limit is not None and (value >= limit if name == "top_p" else value <= limit)


def _short(number: float) -> str:
    return f"{number:.4g}"
