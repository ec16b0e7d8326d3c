"""The shape of next-token distributions in torch, on any device; nothing is read back from the device."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..logits_stats import Kernels, logits_stats
from ..logits_stats.torch_impl import row_sum
from .reference import PREFIX_TOLERANCE

ROUNDS: Final = 20
"""The steps of :func:`log_temperature`, which seldom needs more than 8."""
CLOSE: Final = 1e-7
"""The change of ln T below which nothing is left to do."""
SMALL: Final = 1e-3
"""The entropy (bits) below which a bracket is halved."""


class Spread(NamedTuple):
    """The tokens that are not masked and the standard deviation of their logits (nats), float64 [B]."""

    tokens: Tensor
    deviation: Tensor


def logits_spread(logits: Tensor) -> Spread:
    """Measures the spread of every row of logits [B, V].

    -inf is a mask. Formulas: ``reference.py``.
    """
    seen = logits > -math.inf
    x = logits.double()
    count = row_sum(seen.double())
    mean = row_sum(x.masked_fill(~seen, 0.0)) / count
    deviations = (x - mean.unsqueeze(1)).masked_fill_(~seen, 0.0)
    return Spread(count, (row_sum(deviations.square_()) / count).sqrt_())


def _newton(at: Tensor, measured: Tensor, varentropy: Tensor, entropy: Tensor) -> Tensor:
    """Returns ln T after a step from ``at``, infinite where the line meets no positive 1 / T."""
    rise = (measured / entropy).log() * measured / (varentropy * math.log(2.0))
    return at - rise.add_(1.0).clamp_min_(0.0).log()


def log_temperature(
    logits: Tensor, entropy: Tensor, low: Tensor, high: Tensor, *, kernels: Kernels | None = None
) -> Tensor:
    """Computes ln T of the temperatures at which rows have an entropy, float64 [B].

    ``logits`` [B, V]; ``entropy`` (bits), and the limits ``low`` and ``high`` of ln T, float64 [B]. Where the
    root lies outside the limits the nearer limit is returned.

    Newton's method for ln H over b = 1 / T, whose slope is -V ln 2 / (H b) with the varentropy V of the
    tempered distribution, kept inside the bracket of what is known: a step beyond a limit goes to the limit
    once, then to the middle.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    depths = x - x.amax(-1, keepdim=True)
    below, above = low, high
    below_is_limit = above_is_limit = torch.ones_like(low, dtype=torch.bool)
    at = torch.zeros_like(low).clamp(low, high)
    for _ in range(ROUNDS):
        measured = logits_stats(depths * (-at).exp().unsqueeze(1).to(x.dtype), kernels=kernels)
        cold = measured.entropy < entropy
        below, above = torch.where(cold, at, below), torch.where(cold, above, at)
        below_is_limit = below_is_limit & ~cold
        above_is_limit = above_is_limit & cold
        middle = (below + above) / 2
        target = _newton(at, measured.entropy.double(), measured.varentropy.double(), entropy)
        # of an entropy near 0 float32 leaves neither its logarithm nor its slope
        target = torch.where(measured.entropy > SMALL, target, middle)
        inside = torch.where(
            target <= below,
            torch.where(below_is_limit, below, middle),
            torch.where(target >= above, torch.where(above_is_limit, above, middle), target),
        )
        at = torch.where((target - at).abs() < CLOSE, at, inside)
    return at


def prefix_depth(logits: Tensor, share: Tensor) -> Tensor:
    """Computes how far the last token of top-H's prefix lies below the most probable token.

    float64 [B], nats; ``logits`` [B, V]; ``share`` float64 [B]: of the distribution's entropy. Formula:
    ``reference.py``.
    """
    ordered = logits.double().sort(dim=-1, descending=True).values
    depths = (ordered - ordered[:, :1]).clamp_min_(-800.0)  # exp(-800) is 0, and 0 * -inf would be NaN
    weights = depths.exp()
    mass, moment = weights.cumsum(-1), (weights * depths).cumsum(-1)
    entropies = mass.log() - moment / mass
    limit = share.unsqueeze(1) * entropies[:, -1:] * (1.0 + PREFIX_TOLERANCE)
    inside = (entropies <= limit) & (ordered > -math.inf)
    last = inside.sum(-1, keepdim=True).clamp_min_(1) - 1
    return -depths.gather(1, last).squeeze(1)
