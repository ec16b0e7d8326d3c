"""Entropy, varentropy and the log normaliser of next-token distributions."""

from __future__ import annotations

from torch import Tensor

from .torch_impl import (
    ALL_MASKED_FLAG,
    NAN_FLAG,
    POSITIVE_INFINITY_FLAG,
    LogitsStats,
    logits_stats_torch,
)

__all__ = ["ALL_MASKED_FLAG", "NAN_FLAG", "POSITIVE_INFINITY_FLAG", "LogitsStats", "logits_stats"]


def logits_stats(logits: Tensor) -> LogitsStats:
    """Statistics of every row of ``logits`` [B, V] (fp64, fp32, bf16, fp16; V >= 1), on the tensor's device.

    Maths in float32 (float64 for float64). -inf is a mask; a bad row is flagged and touches no other row; a
    row's figures do not depend on its neighbours. Formulas: ``reference.py``. Raises ValueError for another
    shape and TypeError for integers; never synchronises.
    """
    if logits.dim() != 2 or logits.shape[1] < 1:
        raise ValueError(f"logits must have shape [B, V] with V >= 1, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    return logits_stats_torch(logits)
