"""What a request may ask of the sampler, and the numbers of the two presets.

Knows nothing of tensors: :mod:`entropick_sampler.policy` turns these into rows of a batch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

PolicyName = Literal["entropix", "fixed"]
PresetName = Literal["calibrated", "seed"]
TelemetryLevel = Literal["none", "summary", "tokens", "full"]


class Strategy(enum.IntEnum):
    """How a token was picked; ADAPTIVE is the default that the other four regions leave over."""

    GREEDY = 0
    CLARIFY = 1
    EXPLORE = 2
    HIGH_UNCERTAINTY = 3
    ADAPTIVE = 4

    @property
    def label(self) -> str:
        """The name on the wire and in metrics."""
        return self.name.lower()


STRATEGY_OFF: Final = -1
"""The value of Decision.strategy where the policy is off (policy "fixed", or temperature 0)."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The ordinary sampling fields of one request; ``None`` means that the client was silent.

    ``top_k`` 0 or -1, ``top_p`` 1 and ``min_p`` 0 switch a filter off. ``logprobs`` is the number of
    alternatives to report beside the emitted token (0: only that token), ``None`` for no report.
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


@dataclass(frozen=True, slots=True)
class PolicyParams:
    """Every number of the policy for one request (design: thresholds, bases, coefficients, limits).

    Entropies are in bits, varentropies in bits^2. The ``*_from_*`` coefficients multiply a signal: its raw
    value where ``ranked`` is 0 (preset seed), its quantile rank 0..1 in the profile where it is 1.
    All comparisons with thresholds are strict.
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
    # what a strategy starts from
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


SEED_PARAMS: Final = PolicyParams()
"""Preset ``seed``: the 2024 guide's numbers to the letter."""

PARAM_NAMES: Final[tuple[str, ...]] = tuple(f.name for f in fields(PolicyParams))


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Which policy decides a request's tokens, and how much of it is told."""

    policy: PolicyName = "entropix"
    preset: PresetName = "calibrated"
    overrides: Mapping[str, float] = field(default_factory=dict)
    telemetry: TelemetryLevel = "none"


def resolve(preset: PolicyParams, sampling: SamplingParams, overrides: Mapping[str, float]) -> PolicyParams:
    """Preset, then what the request's ordinary fields say, then its explicit overrides.

    Raises ``ValueError`` naming the first override that is unknown or out of its range.
    """
    sent = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p")
        if (value := getattr(sampling, name)) is not None
    }
    known = dict(overrides)
    for name in known:
        if name not in PARAM_NAMES:
            raise ValueError(f"overrides.{name}: no such policy parameter")
    return replace(preset, **{**sent, **known})
