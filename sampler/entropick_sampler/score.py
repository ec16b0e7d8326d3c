"""The guide's candidate score (golden group 07): log probability plus a confidence made of the signals."""

from __future__ import annotations

from torch import Tensor

from .stats import StepStats


def seed_confidence(stats: StepStats) -> Tensor:
    """0.1(1-H) + 0.2(1-Ha) + 0.3(1-V) + 0.4(1-Va) + 0.5 agreement_seed + 0.6 interaction, [B].

    Bits and nats are mixed as in the guide. The sum is the same for every candidate of a step, so it cannot
    change which one wins; it is reported, not used. Signals that were not measured count 0.
    """
    values = stats._replace(values=stats.values * stats.valid)
    return (
        0.1 * (1 - values.column("logits_entropy"))
        + 0.2 * (1 - values.column("attention_entropy"))
        + 0.3 * (1 - values.column("logits_varentropy"))
        + 0.4 * (1 - values.column("attention_varentropy"))
        + 0.5 * values.column("agreement_seed")
        + 0.6 * values.column("interaction_strength")
    )


def score_candidates(logprobs: Tensor, stats: StepStats) -> Tensor:
    """The guide's score of candidates [B, N] from their log probabilities [B, N] (nats, untempered)."""
    return logprobs + seed_confidence(stats).unsqueeze(-1)
