"""The figures of the newest query's attention, head by head, and the seven signals of a layer, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

_LOG2_E: Final = 1.0 / math.log(2.0)
_FLOOR: Final = -800.0
# exp(-800) is 0 in float32 and float64 alike, and 0 * -800 is 0 where 0 * -inf would be NaN
FIGURES: Final = 5
"""figures of a head: the float fields of :class:`HeadStats`"""
LAYER_SIGNALS: Final = 7
"""signals of a layer, see :func:`layer_signals`"""


class HeadStats(NamedTuple):
    """The figures of one query's attention over its valid keys, float32 [.., H] (float64 for float64)."""

    entropy: Tensor
    """bits"""
    entropy_normalized: Tensor
    """entropy / log2(keys), 0 where there is one key"""
    mean_abs_score: Tensor
    """mean of |score| entering the softmax"""
    deviation: Tensor
    """half the L1 distance of the head's attention to the mean head"""
    previous: Tensor
    """attention to the key one position before the newest; NaN where the query does not see one"""
    keys: Tensor
    """number of valid keys, int64 [..]"""


def named_figures(figures: Tensor, keys: Tensor) -> HeadStats:
    """Returns figures [.., H, 5], which an implementation keeps side by side, and keys [..] by name."""
    entropy, normalized, size, deviation, previous = figures.unbind(-1)
    return HeadStats(entropy, normalized, size, deviation, previous, keys)


class HeadShards(NamedTuple):
    """A tensor-parallel group, among whose workers the heads of a layer are spread."""

    heads: int
    """query heads of all workers together"""
    add: Callable[[Tensor], Tensor]
    """All-reduces a contiguous float tensor: returns its sum over the workers, of its shape and type, maybe
    in place. Every worker calls it once a measurement, with tensors of one shape where their arguments have
    one and the same implementation serves them all."""


def added(of_worker: Tensor, shards: HeadShards) -> Tensor:
    """Returns the sum of a tensor over all workers.

    Raises ValueError where ``shards.add`` gives another shape or type.
    """
    shape, dtype = of_worker.shape, of_worker.dtype
    found = shards.add(of_worker)
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"shards.add must return {dtype} {tuple(shape)}, got {found.dtype} {tuple(found.shape)}"
        )
    return found.contiguous()


def check_shards(shards: HeadShards | None, heads: int) -> None:
    """Raises ValueError where a worker has more heads than all workers together."""
    if shards is not None and shards.heads < heads:
        raise ValueError(f"shards.heads must count all heads, at least the {heads} here, got {shards.heads}")


def layer_signals(stats: HeadStats) -> Tensor:
    """Computes the seven attention signals of a layer, [.., 7], ordered as ``signals.ATTENTION_SIGNALS``.

    attention_entropy (bits), attention_entropy_normalized, attention_varentropy (bits^2), agreement,
    agreement_seed, interaction_strength, attention_to_previous (NaN where the query sees no previous key). A
    mean over layers is taken of these, never before. The native form is in ``numba_signals``.
    """
    figures = (
        stats.entropy, stats.entropy_normalized, stats.deviation, stats.mean_abs_score, stats.previous,
    )  # fmt: skip
    mean = torch.stack(figures).mean(-1)
    spread = (stats.entropy - mean[0].unsqueeze(-1)).square().mean(-1)
    seed = 2.0 * mean[2] / stats.keys.clamp(min=1)
    return torch.stack((mean[0], mean[1], spread, 1.0 - mean[2], seed, mean[3], mean[4]), dim=-1)


def softmax_stats(
    scores: Tensor, valid: Tensor | None, shards: HeadShards | None = None
) -> tuple[Tensor, HeadStats]:
    """Computes attention probabilities [..., H, K] and their statistics; arguments as :func:`head_stats`."""
    s = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    if valid is None:
        size = s.abs().sum(-1)
        keys = torch.full(s.shape[:-2], s.shape[-1], dtype=torch.int64, device=s.device)
    else:
        # where, not a product: a masked score may be NaN
        hidden = ~valid.unsqueeze(-2)
        size = s.masked_fill(hidden, 0.0).abs_().sum(-1)
        s = s.masked_fill(hidden, -math.inf)
        keys = valid.sum(-1).expand(s.shape[:-2])
    top = s.amax(-1, keepdim=True)
    d = (s - top.masked_fill(top == -math.inf, 0.0)).clamp_(min=_FLOOR)
    p = d.exp()
    z = p.sum(-1, keepdim=True)
    z = z.masked_fill(z == 0.0, 1.0)  # a query without keys gives zeros, not NaN
    p.div_(z)
    nats = (z.log() - d.mul_(p).sum(-1, keepdim=True)).squeeze(-1)
    entropy = nats * _LOG2_E
    count = keys.unsqueeze(-1).clamp(min=1)
    ceiling = count.clamp(min=2).to(s.dtype).log2()
    if shards is None:
        mean = p.mean(-2, keepdim=True)
    else:
        mean = added(p.sum(-2), shards).div(shards.heads).unsqueeze(-2)
    deviation = (p - mean).abs_().sum(-1) * 0.5
    return p, HeadStats(
        entropy=entropy,
        entropy_normalized=torch.where(count > 1, entropy / ceiling, 0.0),
        mean_abs_score=size / count,
        deviation=deviation,
        previous=_to_previous(p, valid),
        keys=keys,
    )


def _to_previous(p: Tensor, valid: Tensor | None) -> Tensor:
    """Returns the attention p [..., H, K] to the key one position before the newest valid key, [..., H].

    NaN where that key does not exist or is not valid.
    """
    if valid is None:
        return p[..., -2] if p.shape[-1] > 1 else torch.full_like(p[..., 0], math.nan)
    position = torch.arange(valid.shape[-1], device=valid.device)
    newest = (position * valid).amax(-1, keepdim=True)
    at = (newest - 1).clamp_(min=0)
    there = valid.gather(-1, at) & (newest > 0)
    found = p.gather(-1, at.unsqueeze(-2).expand(*p.shape[:-1], 1)).squeeze(-1)
    return torch.where(there, found, math.nan)


def head_stats(scores: Tensor, valid: Tensor | None = None, shards: HeadShards | None = None) -> HeadStats:
    """Measures the attention of queries whose ``scores`` [..., H, K] enter the softmax.

    ``valid``: bool [..., K] (broadcast over heads), True where the query may look; all keys if None. With
    ``shards`` the heads are one worker's, and the deviation is from the mean head of all workers; its ``add``
    gets the sum of the attention over the heads that are here, [..., K]. Any float dtype and device; no
    synchronisation. Formulas: ``reference.py``. Raises ValueError on shapes that do not fit.
    """
    if scores.dim() < 2 or scores.shape[-1] < 1:
        raise ValueError(f"scores must have shape [..., H, K] with K >= 1, got {tuple(scores.shape)}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape[-1] != scores.shape[-1]):
        raise ValueError(
            f"valid must be bool [..., {scores.shape[-1]}], got {valid.dtype} {tuple(valid.shape)}"
        )
    check_shards(shards, scores.shape[-2])
    return softmax_stats(scores, valid, shards)[1]
