"""The draw in torch, on any device: batched, no data-dependent shapes, no synchronisation on a GPU."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from .reference import FILTER_TOLERANCE, PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, WORD_MASK

SHORT_LIST: Final = 64
"""rows whose top_k is at most this need no full sort"""


def philox_words_torch(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Computes Philox-4x32-10 on int64 tensors that hold 32-bit words: the four output words, [4, ...].

    Products of two words wrap in int64; the high word is right all the same, because the shift is masked.
    """
    words = (*counter, *key)
    shape = torch.broadcast_shapes(*(word.shape for word in words))  # type: ignore[no-untyped-call]
    c0, c1, c2, c3, k0, k1 = (word.expand(shape) for word in words)
    # words 0 and 2 take a round's products, words 1 and 3 its exclusive ors: two words an operation
    products, others = torch.stack((c2, c0)) & WORD_MASK, torch.stack((c1, c3)) & WORD_MASK
    keys = torch.stack((k0, k1))
    # filled on the device: a tensor made from a list would be a copy from the host
    multipliers = torch.stack(
        (torch.full_like(c2, PHILOX_MULTIPLIERS[1]), torch.full_like(c0, PHILOX_MULTIPLIERS[0]))
    )
    weyl = torch.stack((torch.full_like(k0, PHILOX_WEYL[0]), torch.full_like(k1, PHILOX_WEYL[1])))
    for _ in range(PHILOX_ROUNDS):
        wide = products * multipliers
        mixed = (wide >> 32).bitwise_xor_(others).bitwise_xor_(keys).bitwise_and_(WORD_MASK)
        # mixed = new words (0, 2), wide's low halves = new words (1, 3)
        products, others = mixed.flip(0), wide.bitwise_and_(WORD_MASK)
        keys = keys + weyl
    return torch.stack((products[1], others[0], products[0], others[1]))


def philox_uniform_torch(seed: Tensor, position: Tensor, draw: Tensor, stream: Tensor) -> Tensor:
    """Implements :func:`entropick_kernels.sample.philox_uniform`."""
    zero = torch.zeros((), dtype=torch.int64, device=seed.device)
    key = (seed & WORD_MASK, (seed >> 32) & WORD_MASK)
    x = philox_words_torch((position, draw, stream, zero), key)
    return ((x[0] << 21) | (x[1] >> 11)).double() * 2.0**-53


def _rank_filter(x: Tensor, ordered: Tensor, top_k: Tensor, top_p: Tensor, scale: Tensor) -> Tensor:
    """Returns the survivors of top-k and top-p, bool [B, V].

    ``ordered`` [B, n] holds the largest logits in falling order.

    How many survive follows from the ordered values alone; which ones, from the value of the last of them:
    everything above it, and of its equals those of lowest id.
    """
    vocabulary, listed = x.shape[1], ordered.shape[1]
    # in float64, so that a short list and a full sort cannot differ by a rounding
    mass = ((ordered - ordered[:, :1]).double() * scale).exp_().cumsum(-1)
    before = torch.cat((torch.zeros_like(mass[:, :1]), mass[:, :-1]), dim=-1)
    k = torch.where(top_k > 0, top_k, vocabulary).clamp(max=listed).unsqueeze(-1)
    target = mass.gather(-1, k - 1) * (top_p.unsqueeze(-1) - FILTER_TOLERANCE)
    rank = torch.arange(listed, device=x.device)
    inside = (before < target) & (rank < k)
    count = torch.where(top_p.unsqueeze(-1) < 1.0, inside.sum(-1, keepdim=True).clamp(min=1), k)
    last = ordered.gather(-1, count - 1)
    above, equal = x > last, x == last
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= room))


def draw_torch(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
    *,
    max_top_k: int | None,
) -> Tensor:
    """Implements :func:`entropick_kernels.sample.draw`."""
    x = logits.float()
    top, best = x.max(dim=-1, keepdim=True)
    scale = torch.where(temperature > 0, 1.0 / temperature, 1.0).float().unsqueeze(-1)
    weights = ((x - top) * scale).exp_()
    floor = min_p.double().clamp(max=1.0) * (1.0 - FILTER_TOLERANCE)
    keep = weights >= floor.float().unsqueeze(-1)
    ordered: Tensor | None = None
    if max_top_k is not None and 0 < max_top_k <= SHORT_LIST:
        ordered = x.topk(min(SHORT_LIST, x.shape[1]), dim=-1).values
    elif max_top_k != 0 and (x.is_cuda or bool(((top_k > 0) | (top_p < 1.0)).any())):
        ordered = x.sort(dim=-1, descending=True).values
    if ordered is not None:
        keep &= _rank_filter(x, ordered, top_k.long(), top_p.double(), scale)
    cdf = torch.where(keep, weights, 0.0).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    tokens = torch.searchsorted(cdf, uniforms.double() * total, right=True)
    # a row without a distribution (NaN, +inf, all masked) has no total; its flag is the caller's business
    usable = (temperature.unsqueeze(-1) > 0) & (total > 0) & (total < math.inf) & (tokens < x.shape[1])
    return torch.where(usable, tokens, best)
