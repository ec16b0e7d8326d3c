"""The settings that decide the outcome of a training run: sizes, learning rates, and the curriculum."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from entropick_pico import grammar
from entropick_pico.grammar.world import words

# Facts, random choices and sorting first; then sums and parities step by step; then everything.
_FIRST: Final = words(
    "capital flag coin season die color name town word home visit "
    "ambiguous clarified answerable sort mix json_fields greeting story"
)
_SECOND: Final = (*_FIRST, *words("add_steps parity_steps pick count sums latin"))
_EARLY: Final[Mapping[str, float]] = MappingProxyType({"add_steps": 2.0, "parity_steps": 1.5, "sort": 1.5})
# Once everything is in, what is learned early needs less and what is computed needs more.
_LAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "capital": 0.6,
        "flag": 0.6,
        "ambiguous": 0.8,
        "greeting": 0.6,
        "add_direct": 0.7,
        "parity_direct": 0.7,
        "sort": 1.4,
        "parity_steps": 2.0,
        "lookup": 1.2,
        "count": 1.5,
        "pick": 1.6,
    }
)


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: the weights of the kinds, and the share of conversations with tools."""

    weights: Mapping[str, float]
    tools: float


def _boosted(kinds: Iterable[str], boost: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType({kind: grammar.WEIGHTS[kind] * boost.get(kind, 1.0) for kind in kinds})


STAGES: Final = (
    Stage(_boosted(_FIRST, _EARLY), 0.0),
    Stage(_boosted(_SECOND, _EARLY), 0.03),
    Stage(_boosted(grammar.KINDS, _LAST), 0.05),
)


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    ``steps`` counts optimiser steps of at most ``batch_tokens`` tokens, padding included. The other times
    are fractions of the run, but ``warmup``, which counts steps.
    """

    steps: int = 5500
    batch_tokens: int = 3072
    seed: int = 1
    lr: float = 2e-3
    muon_lr: float = 0.01
    early_lr: float = 4e-3
    early_muon_lr: float = 0.03
    early_until: float = 0.2857
    warmup: int = 100
    decay_from: float = 0.4
    first_stage: float = 0.08
    second_stage: float = 0.3
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512

    def rates(self, step: int) -> tuple[float, float]:
        """Returns the learning rates of AdamW and Muon at ``step``.

        After a warmup come a high plateau, which is quick to learn facts, a lower one, since computed answers
        do not settle at the high rates, and a linear decay to 1 %.
        """
        left = (self.steps - step) / (self.steps * (1 - self.decay_from))
        scale = min(1.0, (step + 1) / self.warmup, max(0.01, left))
        if step < self.early_until * self.steps:
            return scale * self.early_lr, scale * self.early_muon_lr
        return scale * self.lr, scale * self.muon_lr

    def stage(self, step: int) -> int:
        """Returns the number of the stage, an index into ``STAGES``, that ``step`` belongs to."""
        return int(step >= self.first_stage * self.steps) + int(step >= self.second_stage * self.steps)

    def until(self, fraction: float) -> int:
        """Returns the number of steps that make up ``fraction`` of the run; ValueError outside 0 to 1."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"the fraction of a run must be from 0 to 1, got {fraction}")
        return round(fraction * self.steps)
