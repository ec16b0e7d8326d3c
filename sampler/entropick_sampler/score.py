"""The guide's score of a candidate: log probability plus a confidence made of the signals.

Known answers: tests/golden, group 07.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from .signals import POLICY_SIGNALS, SIGNAL_NAMES
from .stats import StepStats

# 0.1(1 - H) + 0.2(1 - Ha) + 0.3(1 - V) + 0.4(1 - Va) + 0.5 agreement_seed + 0.6 interaction
CONFIDENCE_CONSTANT: Final = 1.0
_WEIGHTS: Final = {
    "logits_entropy": -0.1,
    "attention_entropy": -0.2,
    "logits_varentropy": -0.3,
    "attention_varentropy": -0.4,
    "agreement_seed": 0.5,
    "interaction_strength": 0.6,
}
CONFIDENCE_WEIGHTS: Final = tuple(_WEIGHTS.get(signal.name, 0.0) for signal in POLICY_SIGNALS)
"""The weights in the order of POLICY_SIGNALS."""


@functools.cache
def _weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the weights on a device, where they stay so that a step copies nothing from the host."""
    return torch.tensor(CONFIDENCE_WEIGHTS, dtype=dtype, device=device)


def host_confidence(signals: Sequence[float | None]) -> float:
    """Returns the confidence of one row on the host, from its values in the order of SIGNALS."""
    pairs = zip(SIGNAL_NAMES, signals, strict=True)
    return CONFIDENCE_CONSTANT + math.fsum(
        _WEIGHTS.get(name, 0.0) * value for name, value in pairs if value is not None
    )


def seed_confidence(stats: StepStats) -> Tensor:
    """Returns the guide's confidence of every row, [B].

    1 - 0.1 H - 0.2 Ha - 0.3 V - 0.4 Va + 0.5 agreement_seed + 0.6 interaction. Bits and nats are mixed as in
    the guide. The sum is the same for every candidate of a step, so it cannot change which one wins; it is
    reported, not used. Signals that were not measured count 0.
    """
    values = stats.known
    return (values * _weights(values.dtype, values.device)).sum(-1).add_(CONFIDENCE_CONSTANT)


def score_candidates(logprobs: Tensor, stats: StepStats) -> Tensor:
    """Returns the guide's scores of candidates [B, N] from their log probabilities [B, N] (nats, T = 1)."""
    return logprobs + seed_confidence(stats).unsqueeze(-1)
