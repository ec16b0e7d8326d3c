"""The adjustments of a step on every engine: from the replies of its rows to the sampler's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from entropick_sampler.adjustments import Adjustments, Masks
from entropick_sampler.reply_adjustments import step_adjustments

from .reply import Reply

_EXACT: Final = (torch.float32, torch.float64)


def adjust_rows(
    replies: Sequence[Reply], logits: Tensor, masks: Masks | None = None
) -> tuple[Tensor, Adjustments | None]:
    """Returns the logits [B, V] that a step may adjust in place, and the adjustments of its rows.

    ``masks``: masks of some rows beside those that their requests ask for. Without adjustments (None) the
    logits are those that came; with them they may be a copy: float32 at least, and contiguous.
    """
    if masks is None and all(reply.adjustments is None for reply in replies):
        return logits, None
    given = {i for i, reply in enumerate(replies) if reply.pending}
    adjustments = step_adjustments([reply.adjustments for reply in replies], logits.shape[1], given, masks)
    if adjustments is None:
        return logits, None
    exact = logits if logits.dtype in _EXACT else logits.float()
    return exact.contiguous(), adjustments
