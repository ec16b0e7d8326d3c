"""The parameters that a request may set, their limits, and the numbers of the two presets.

Knows nothing of tensors: :mod:`entropick_sampler.compose` turns parameters into the rows of a batch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from .branch_config import BranchConfig
from .layer_entropy import LayerEntropy

PolicyName = Literal[
    "entropix",
    "fixed",
    "edt",
    "dynamic_temperature",
    "target_entropy",
    "top_n_sigma",
    "mirostat",
    "top_h",
]
PresetName = Literal["calibrated", "seed"]
TelemetryLevel = Literal["none", "summary", "tokens", "full"]
Genuineness = bool | Literal["scores", "seed"]
"""Which figures of genuineness are computed. "scores": G and its parts without token costs; True: token costs
too; "seed": also the source's literal form; False: none."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The ordinary sampling fields of one request; ``None`` means that the client was silent.

    ``top_k`` 0 or -1, ``top_p`` 1 and ``min_p`` 0 switch a filter off. ``logprobs`` is the number of
    alternatives to report beside the emitted token (0: only that token), ``None`` for no report.
    ``presence_penalty`` and ``frequency_penalty`` read the output, ``repetition_penalty`` the prompt too.
    ``logit_bias``: token ids with a number that is added to their logits; ``min_tokens``: no token of
    ``stop_token_ids`` before so many; ``bad_words``: token ids of each text that must not come out;
    ``allowed_token_ids``: the only tokens to draw, ``None`` for all.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int = 0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    # of the prompt: the number of alternatives to report beside each of its tokens, None for no report
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyParams:
    """The numbers of the policy for one request: cut points, base values and limits.

    Entropies are in bits, varentropies in bits^2. All comparisons with cut points are strict. The formulas
    that turn base values and signals into the parameters of a draw belong to the preset
    (:mod:`entropick_sampler.formulas`) and cannot be set.
    """

    # regions of the (H, V) plane
    greedy_entropy: float = 0.1
    greedy_varentropy: float = 0.1
    clarify_entropy: float = 3.0
    clarify_varentropy: float = 0.1
    explore_entropy: float = 5.0
    explore_varentropy: float = 5.0
    high_uncertainty_entropy: float = 5.0
    high_uncertainty_varentropy: float = 5.0
    # the base values of the formulas
    temperature: float = 0.666
    top_p: float = 0.90
    top_k: int = 27
    min_p: float = 0.03
    n_candidates: int = 12
    # limits on the temperature that comes out
    temperature_min: float = 0.1
    temperature_max: float = 3.0
    # the clarifying text
    clarify_budget: int = 1
    clarify_cooldown: int = 32
    # the repeated tokens from which on a reply is in a loop (0: never), and the least temperature there,
    # which temperature_max limits
    loop_length: int = 0
    loop_temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class FormulaParams:
    """The numbers of the policies with one formula, for one request; each is read by one policy alone.

    What they mean: :mod:`entropick_sampler.one_formula`. Entropies are in bits.
    """

    edt_theta: float = 0.1
    edt_base: float = 0.8
    dynatemp_range: float = 0.5
    dynatemp_exponent: float = 1.0
    target_entropy: float = 1.0
    top_n_sigma: float = 1.0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    top_h_alpha: float = 0.4


SEED_PARAMS: Final = PolicyParams()
"""Preset ``seed``: the 2024 guide's numbers to the letter."""

CALIBRATED_BASE: Final = PolicyParams(
    temperature=0.0,
    top_p=0.95,
    top_k=50,
    min_p=0.02,
    n_candidates=1,
    temperature_min=0.0,
    temperature_max=1.5,
    loop_length=5,
    loop_temperature=1.5,
)
"""Preset ``calibrated`` without its thresholds, which come from the model's profile.

Where neither request nor server names a temperature, the most probable token is taken outside of loops:
measured as good as greedy on questions, with less than half of its repetition (docs/decisions.md).
"""

SEVERAL_TEMPERATURE: Final = 0.7
"""The temperature of preset ``calibrated`` where a request that names none wants several continuations, which
would all be the same at 0."""

FIXED_BASE: Final = PolicyParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, n_candidates=1)
"""Policy ``fixed``: the ordinary sampler; thresholds are never read."""

FORMULA_BASE: Final = replace(FIXED_BASE, temperature_min=0.01, temperature_max=5.0)
"""The policies with one formula: the base values of ``fixed``, and limits for a temperature that they set."""

MAX_CANDIDATES: Final = 64
LOWEST_TEMPERATURE: Final = 1e-5
"""A temperature below this is plain greedy: its reciprocal would leave float32."""
_BITS: Final = (0.0, 64.0)
_BITS2: Final = (0.0, 4096.0)

PARAM_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "greedy_entropy": _BITS,
    "greedy_varentropy": _BITS2,
    "clarify_entropy": _BITS,
    "clarify_varentropy": _BITS2,
    "explore_entropy": _BITS,
    "explore_varentropy": _BITS2,
    "high_uncertainty_entropy": _BITS,
    "high_uncertainty_varentropy": _BITS2,
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (-1, 1_000_000),
    "min_p": (0.0, 1.0),
    "n_candidates": (1, MAX_CANDIDATES),
    "temperature_min": (0.01, 5.0),
    "temperature_max": (0.01, 5.0),
    "clarify_budget": (0, 16),
    "clarify_cooldown": (0, 1_000_000),
    "loop_length": (0, 32),
    "loop_temperature": (0.01, 5.0),
    "edt_theta": (0.0, 64.0),
    "edt_base": (0.01, 1.0),
    "dynatemp_range": (0.0, 5.0),
    "dynatemp_exponent": (0.01, 64.0),
    "target_entropy": _BITS,
    "top_n_sigma": (0.0, 1000.0),
    "mirostat_tau": _BITS,
    "mirostat_eta": (0.0, 10.0),
    "top_h_alpha": (0.0, 1.0),
}
"""Inclusive limits of every override."""

_POLICY_PARAM_NAMES: Final = frozenset(f.name for f in fields(PolicyParams))
PARAM_NAMES: Final[tuple[str, ...]] = (
    *(f.name for f in fields(PolicyParams)),
    *(f.name for f in fields(FormulaParams)),
)
"""The names of every override."""
INTEGER_PARAMS: Final[frozenset[str]] = frozenset(
    f.name for f in fields(PolicyParams) if isinstance(f.default, int)
)


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The policy that decides a request's tokens, and how much of it the telemetry says."""

    policy: PolicyName = "entropix"
    preset: PresetName = "calibrated"
    overrides: Mapping[str, float] = field(default_factory=dict)
    telemetry: TelemetryLevel = "none"
    branch: BranchConfig | None = None
    """None: no branches"""
    genuineness: Genuineness = False
    """decides nothing"""
    layer_entropy: LayerEntropy | None = None
    """decides nothing; None: of no layer"""
    at_end: bool = False
    """a stream's last chunk has the rows of all its tokens"""


def check_overrides(overrides: Mapping[str, float]) -> None:
    """Raises ValueError that names the first override which is unknown, of the wrong type or out of range."""
    for name, value in overrides.items():
        limits = PARAM_RANGES.get(name)
        if limits is None:
            near = difflib.get_close_matches(name, PARAM_NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known names: {', '.join(PARAM_NAMES)}"
            raise ValueError(f"overrides.{name[:64]}: no such policy parameter{hint}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"overrides.{name}: must be a number")
        if not limits[0] <= value <= limits[1]:
            shown = str(value) if abs(value) < 1e15 else "a larger number"
            raise ValueError(f"overrides.{name}: must be between {limits[0]} and {limits[1]}, got {shown}")
        if name in INTEGER_PARAMS and value != int(value):
            raise ValueError(f"overrides.{name}: must be a whole number")
    low, high = overrides.get("temperature_min"), overrides.get("temperature_max")
    if low is not None and high is not None and low > high:
        raise ValueError("overrides.temperature_min: must not exceed temperature_max")


def with_values(base: PolicyParams, values: Mapping[str, float]) -> PolicyParams:
    """Returns the parameters of ``base`` with some replaced, each as the integer or float that it is."""
    typed: dict[str, Any] = {k: int(v) if k in INTEGER_PARAMS else float(v) for k, v in values.items()}
    return replace(base, **typed)


def formula_params(overrides: Mapping[str, float]) -> FormulaParams:
    """Returns the numbers of the policies with one formula, replaced by a request's overrides.

    The caller must have checked the overrides (:func:`check_overrides`).
    """
    known = {f.name for f in fields(FormulaParams)}
    return FormulaParams(**{name: float(value) for name, value in overrides.items() if name in known})


def resolve(base: PolicyParams, sampling: SamplingParams, overrides: Mapping[str, float]) -> PolicyParams:
    """Returns the parameters of a preset, replaced by a request's ordinary fields and then by its overrides.

    Raises ValueError as :func:`check_overrides` does.
    """
    check_overrides(overrides)
    sent = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p")
        if (value := getattr(sampling, name)) is not None
    }
    params = with_values(base, {**sent, **{k: v for k, v in overrides.items() if k in _POLICY_PARAM_NAMES}})
    if params.temperature < LOWEST_TEMPERATURE:
        params = replace(params, temperature=0.0)
    elif "temperature" in sent or "temperature" in overrides:
        # a temperature that was asked for is meant, also where it lies outside the preset's limits
        low, high = params.temperature_min, params.temperature_max
        if "temperature_min" not in overrides:
            low = min(low, params.temperature)
        if "temperature_max" not in overrides:
            high = max(high, params.temperature)
        params = replace(params, temperature_min=low, temperature_max=high)
    if params.temperature_min > params.temperature_max:
        # one limit was overridden across the preset's other one, which yields
        meant = params.temperature_min if "temperature_min" in overrides else params.temperature_max
        params = replace(params, temperature_min=meant, temperature_max=meant)
    return params
