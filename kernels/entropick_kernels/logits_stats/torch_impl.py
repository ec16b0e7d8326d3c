"""Logits statistics in torch, on any device: exact two-pass moments, no synchronisation."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

NAN_FLAG: Final = 1
"""the row holds a NaN; its figures are NaN"""
POSITIVE_INFINITY_FLAG: Final = 2
"""the row holds a +inf (and no NaN); its figures are NaN"""
ALL_MASKED_FLAG: Final = 4
"""the row is -inf throughout; its figures are 0"""

_LOG2_E: Final = 1.0 / math.log(2.0)
_CHUNK: Final = 1024
_FLOOR: Final = -800.0
# exp(-800) is 0 in float32 and float64 alike, and 0 * -800 is 0 where 0 * -inf would be NaN


class LogitsStats(NamedTuple):
    """Statistics of B next-token distributions, each [B]; float32 (float64 for float64 logits).

    logsumexp = ``max_logit`` + ``log_z``; the two are kept apart because their float32 sum loses 1e-3 at
    logits of 1e4.
    """

    entropy: Tensor
    """bits"""
    varentropy: Tensor
    """bits^2"""
    max_logit: Tensor
    """NaN where the row holds one"""
    log_z: Tensor
    """nats, relative to max_logit"""
    flags: Tensor
    """int32: 0, NAN_FLAG, POSITIVE_INFINITY_FLAG or ALL_MASKED_FLAG"""


def row_sum(x: Tensor) -> Tensor:
    """Sums the last axis, [B, V] -> [B], in an order that depends on V alone.

    torch.sum splits a single long row over threads but not a batch of rows, so the last bits of a row would
    depend on its neighbours; partial sums of fixed length do not.
    """
    whole = x.shape[-1] - x.shape[-1] % _CHUNK
    if whole == 0:
        return x.sum(-1)
    total = x[:, :whole].view(x.shape[0], -1, _CHUNK).sum(-1).sum(-1)
    return total if whole == x.shape[-1] else total + x[:, whole:].sum(-1)


def logits_stats_torch(logits: Tensor) -> LogitsStats:
    """Implements :func:`entropick_kernels.logits_stats.logits_stats`."""
    x = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    top = x.amax(dim=-1)
    masked = top == -math.inf
    d = x - top.masked_fill(masked, 0.0).unsqueeze(-1)
    d.clamp_(min=_FLOOR)
    weights = d.exp()
    z = row_sum(weights)
    z_safe = z.masked_fill(masked, 1.0)
    mean = row_sum(weights * d) / z_safe
    second = row_sum(d.sub_(mean.unsqueeze(-1)).square_().mul_(weights)) / z_safe
    log_z = z_safe.log()
    flags = (
        top.isnan().to(torch.int32) * NAN_FLAG
        + (top == math.inf).to(torch.int32) * POSITIVE_INFINITY_FLAG
        + masked.to(torch.int32) * ALL_MASKED_FLAG
    )
    return LogitsStats(
        entropy=(log_z - mean) * _LOG2_E,
        varentropy=second * (_LOG2_E * _LOG2_E),
        max_logit=top,
        log_z=log_z,
        flags=flags,
    )
