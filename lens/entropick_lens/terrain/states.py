"""Norm and pair cosine of the residual stream over the layers, with and without the first position.

The first position of a decoder often holds a vector of enormous norm that heads attend to when nothing else
fits (an attention sink): with it, a mean over positions says little about the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .groups import unit


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStates:
    """The residual stream behind one layer, over the positions of all texts."""

    mean_norm: float
    mean_norm_without_first: float | None = None
    first_norm: float
    """The mean norm at position 0."""
    pair_cosine: float | None = None
    """The mean cosine of two positions of a text, averaged over all pairs of all texts."""
    pair_cosine_without_first: float | None = None
    change_cosine: float | None = None
    """The mean cosine with the same position one layer before, without position 0; None for the first."""
    null_deviation: float
    """1 / sqrt(d), of one pair's cosine for random directions."""


def layer_states(texts: Sequence[torch.Tensor], before: Sequence[torch.Tensor] | None = None) -> LayerStates:
    """Measures the states of one layer: ``texts`` are [T, d] each, ``before`` the same one layer earlier.

    Raises ValueError without a text, or for a text without a position.
    """
    if not texts or any(text.shape[0] == 0 for text in texts):
        raise ValueError("the states need at least one text with at least one position")
    norms = [text.double().norm(dim=-1) for text in texts]
    rest = torch.cat([norm[1:] for norm in norms])
    change = None
    if before is not None and rest.numel():
        change = float(
            torch.cat(
                [(unit(a[1:]) * unit(b[1:])).sum(-1) for a, b in zip(texts, before, strict=True)]
            ).mean()
        )
    return LayerStates(
        mean_norm=float(torch.cat(norms).mean()),
        mean_norm_without_first=float(rest.mean()) if rest.numel() else None,
        first_norm=float(torch.stack([norm[0] for norm in norms]).mean()),
        pair_cosine=_pair_cosine(texts),
        pair_cosine_without_first=_pair_cosine([text[1:] for text in texts]),
        change_cosine=change,
        null_deviation=1.0 / math.sqrt(texts[0].shape[1]),
    )


def _pair_cosine(texts: Sequence[torch.Tensor]) -> float | None:
    total, pairs = 0.0, 0
    for text in texts:
        u = unit(text)
        count = u.shape[0]
        summed = u.sum(0)
        total += float(summed @ summed - (u * u).sum())
        pairs += count * (count - 1)
    return total / pairs if pairs else None
