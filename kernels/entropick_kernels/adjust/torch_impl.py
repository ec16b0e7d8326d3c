"""The adjustments of logits in torch, on any device, in place; nothing is read back from the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arrays import LARGEST, WORD_BITS, Entries, Floats, Masks, on_device


def mask_torch(logits: Tensor, masks: Masks) -> None:
    """Implements :func:`entropick_kernels.adjust.mask_logits`."""
    vocabulary, device = logits.shape[1], logits.device
    words = on_device(masks.words, device)[:, : -(-vocabulary // WORD_BITS)]
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=device)
    excluded = (words.unsqueeze(2) >> bits).bitwise_and_(1).view(len(masks.rows), -1) == 0
    behind = vocabulary - excluded.shape[1]
    if behind > 0:
        excluded = torch.nn.functional.pad(excluded, (0, behind), value=True)
    rows = on_device(masks.rows, device)
    logits[rows] = logits[rows].masked_fill_(excluded[:, :vocabulary], -math.inf)


def add_torch(logits: Tensor, added: Entries) -> None:
    """Implements :func:`entropick_kernels.adjust.add_to_logits`."""
    at = tuple(on_device(array, logits.device) for array in (added.rows, added.ids))
    sums = logits[at].double() + on_device(added.values, logits.device)
    logits[at] = sums.to(logits.dtype)


def penalise_torch(logits: Tensor, seen: Entries, factors: Floats) -> Tensor:
    """Implements :func:`entropick_kernels.adjust.penalise`."""
    rows, ids, counts = (on_device(a, logits.device) for a in (seen.rows, seen.ids, seen.values))
    presence, frequency, repetition = on_device(factors, logits.device)[rows].unbind(1)
    before = logits[rows, ids]
    x = before.double()
    value = torch.where(x > 0, x / repetition, x * repetition)
    value = value - frequency * counts - presence.masked_fill(counts <= 0, 0.0)
    value = value.clamp_(-LARGEST, LARGEST).masked_fill_(x == -math.inf, -math.inf)
    logits[rows, ids] = value.to(logits.dtype)
    return before


def restore_torch(logits: Tensor, seen: Entries, before: Tensor) -> None:
    """Implements :func:`entropick_kernels.adjust.restore`."""
    logits[tuple(on_device(array, logits.device) for array in (seen.rows, seen.ids))] = before
