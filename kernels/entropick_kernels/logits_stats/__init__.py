"""Entropy, varentropy and the log normaliser of next-token distributions.

``reference``: the formulas, in float64. ``torch_impl``: any device. ``numba_impl``: the CPU. ``triton_impl``:
GPUs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._triton import chosen
from ..native_code import wanted
from .torch_impl import (
    ALL_MASKED_FLAG,
    NAN_FLAG,
    POSITIVE_INFINITY_FLAG,
    LogitsStats,
    logits_stats_torch,
)

try:
    from . import numba_impl as _loops
except ImportError:  # numba is not installed: torch serves everything
    _loops = None  # type: ignore[assignment]

__all__ = [
    "ALL_MASKED_FLAG",
    "NAN_FLAG",
    "POSITIVE_INFINITY_FLAG",
    "Implementation",
    "LogitsStats",
    "logits_stats",
    "warmup",
]

Kernels = Literal["torch", "numba", "triton"]
_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def logits_stats(logits: Tensor, *, kernels: Kernels | None = None) -> LogitsStats:
    """Measures every row of ``logits`` [B, V] (fp64, fp32, bf16, fp16; V >= 1), on the tensor's device.

    Maths in float32 (float64 for float64). -inf is a mask; a bad row is flagged and touches no other row; a
    row's figures do not depend on its neighbours. Formulas: ``reference.py``. Never synchronises.

    ``kernels``: "triton" (CUDA, not float64), "numba" (native loops; CPU, not float64), "torch"
    (anything), or None for the fastest that serves the tensor. Raises ValueError for another shape or where
    the forced implementation cannot serve it, TypeError for integers.
    """
    if logits.dim() != 2 or logits.shape[1] < 1:
        raise ValueError(f"logits must have shape [B, V] with V >= 1, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.dtype in _TRITON_DTYPES:
        triton = chosen(__name__, kernels, logits)
        if triton is not None:
            stats: LogitsStats = triton.logits_stats_triton(logits)
            return stats
    elif kernels == "triton":
        raise ValueError(f"the Triton kernels read float32, bfloat16 and float16, got {logits.dtype}")
    served = _loops is not None and logits.device.type == "cpu" and logits.dtype != torch.float64
    if kernels == "numba" and not served:
        raise ValueError("the native loops need numba and a tensor on the CPU that is not float64")
    native = served and wanted(kernels)
    return _loops.logits_stats_numba(logits) if native else logits_stats_torch(logits)


def warmup() -> None:
    """Compiles the native loops now, or loads them from disk, so that no request waits."""
    if _loops is not None:
        _loops.warmup_numba()
