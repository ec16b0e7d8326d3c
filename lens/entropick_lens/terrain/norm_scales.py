"""The scales of a model's norm layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class NormScale:
    """The distribution of one norm's scales (gamma; 1 + weight where the architecture stores it so)."""

    name: str
    mean: float
    least: float
    greatest: float
    deviation: float
    above_1_5: float
    """The share of scales above 1.5."""
    below_0_5: float
    near_1: float
    """The share from 0.8 to 1.2."""
    negative: int


def norm_scale(name: str, scale: torch.Tensor) -> NormScale:
    """Describes the scales [d] of the norm ``name``."""
    x = scale.double()
    return NormScale(
        name=name,
        mean=float(x.mean()),
        least=float(x.min()),
        greatest=float(x.max()),
        deviation=float(x.std(correction=0)),
        above_1_5=float((x > 1.5).double().mean()),
        below_0_5=float((x < 0.5).double().mean()),
        near_1=float(((x >= 0.8) & (x <= 1.2)).double().mean()),
        negative=int((x < 0.0).sum()),
    )
