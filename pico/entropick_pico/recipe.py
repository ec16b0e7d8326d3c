"""The settings that decide the outcome of a training run: sizes, learning rates, and the curriculum."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from entropick_pico import grammar
from entropick_pico.grammar.world import words

# Taking things from the prompt first, since most of the rest builds on it and it is slow to come among much
# else; with it the facts and the plain random choices. Then small talk, sums and parities step by step, and
# tasks in any order; then everything.
_FIRST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "repeat": 12.0,
        "json_fields": 6.0,
        "mix": 6.0,
        "pick": 4.0,
        "sort": 8.0,
        "answerable": 6.0,
        "capital": 6.0,
        "flag": 4.0,
        "home": 4.0,
        "visit": 2.0,
        **dict.fromkeys(words("coin season die color name town word"), 1.0),
    }
)
_SECOND: Final[Mapping[str, float]] = MappingProxyType(
    {
        **_FIRST,
        "repeat": 4.0,
        "json_fields": 4.0,
        "capital": 4.0,
        **{
            kind: grammar.WEIGHTS[kind]
            for kind in words("ambiguous clarified sums mix latin json_free story greeting")
        },
        "sort": 10.0,
        "count": 16.0,
        "add_steps": 12.0,
        "parity_steps": 4.0,
    }
)
# Once everything is in, what is learned early needs less and what is computed needs more.
_LAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "capital": 0.5,
        "flag": 0.5,
        "answerable": 0.5,
        "ambiguous": 0.8,
        "greeting": 0.6,
        "json_fields": 0.7,
        "repeat": 0.8,
        "add": 0.8,
        "add_steps": 0.9,
        "add_direct": 0.5,
        "parity": 0.8,
        "parity_direct": 0.5,
        "sort": 1.8,
        "count": 2.0,
        "lookup": 1.3,
        "pick": 1.8,
    }
)


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: the weights of the kinds, and the share of conversations with tools."""

    weights: Mapping[str, float]
    tools: float


STAGES: Final = (
    Stage(_FIRST, 0.03),
    Stage(_SECOND, 0.04),
    Stage(
        MappingProxyType({kind: weight * _LAST.get(kind, 1.0) for kind, weight in grammar.WEIGHTS.items()}),
        0.05,
    ),
)


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    ``steps`` counts optimiser steps of at most ``batch_tokens`` tokens, padding included. The other times
    are fractions of the run, but ``warmup``, which counts steps.
    """

    steps: int = 10500
    batch_tokens: int = 2048
    seed: int = 1
    lr: float = 2e-3
    muon_lr: float = 0.01
    warmup: int = 50
    decay_from: float = 0.4
    first_stage: float = 0.1
    second_stage: float = 0.3
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512

    def rates(self, step: int) -> tuple[float, float]:
        """Returns the learning rates of AdamW and Muon at ``step``.

        A warmup, a plateau, and a linear decay to 1 %. At two to three times these rates taking things from
        the prompt did not come in 1,200 steps; at these it begins within 400.
        """
        left = (self.steps - step) / (self.steps * (1 - self.decay_from))
        scale = min(1.0, (step + 1) / self.warmup, max(0.01, left))
        return scale * self.lr, scale * self.muon_lr

    def stage(self, step: int) -> int:
        """Returns the number of the stage, an index into ``STAGES``, that ``step`` belongs to."""
        return int(step >= self.first_stage * self.steps) + int(step >= self.second_stage * self.steps)

    def until(self, fraction: float) -> int:
        """Returns the number of steps that make up ``fraction`` of the run; ValueError outside 0 to 1."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"the fraction of a run must be from 0 to 1, got {fraction}")
        return round(fraction * self.steps)
