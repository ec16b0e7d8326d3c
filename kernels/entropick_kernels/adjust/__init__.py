"""The adjustments of logits: masks and biases before they are measured, penalties after it. All in place.

``reference``: by definition, in float64. ``torch_impl``: any device. ``numba_impl`` and ``numba_loops``: the
CPU. ``triton_impl``: GPUs. A value is computed in float64 and rounded once to the type of the logits, so all
implementations give the same bits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._triton import chosen
from ..native_code import wanted
from . import torch_impl
from .arrays import Entries, Floats, Masks, words_of

try:
    from . import numba_impl as _loops
except ImportError:  # numba is not installed: torch serves everything
    _loops = None  # type: ignore[assignment]

__all__ = [
    "Entries",
    "Masks",
    "add_to_logits",
    "mask_logits",
    "penalise",
    "restore",
    "warmup",
    "words_of",
]

Kernels = Literal["torch", "numba", "triton"]
_TYPES = (torch.float32, torch.float64)


def _checked(logits: Tensor) -> None:
    """Raises ValueError for logits that are no matrix, or of a type that would round a bias away."""
    if logits.dim() != 2 or logits.dtype not in _TYPES:
        raise ValueError(
            f"expected float32 or float64 logits [B, V], got {tuple(logits.shape)} of {logits.dtype}"
        )


def _native(logits: Tensor, kernels: Kernels | None) -> bool:
    """Returns whether the native loops are to run. Raises ValueError where they are demanded and cannot."""
    possible = (
        _loops is not None
        and logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and logits.is_contiguous()
    )
    if kernels == "numba" and not possible:
        raise ValueError("the native loops need numba and contiguous float32 logits on the CPU")
    return possible and wanted(kernels)


def mask_logits(logits: Tensor, masks: Masks, *, kernels: Kernels | None = None) -> None:
    """Sets the logits [B, V] of the tokens that ``masks`` does not allow to -infinity.

    ``kernels``: "triton", "numba", "torch", or None for the fastest that serves the tensor. Raises ValueError
    for logits of another shape or type, and where the forced implementation cannot serve them.
    """
    _checked(logits)
    triton = chosen(__name__, kernels, logits)
    if triton is not None:
        triton.mask_triton(logits, masks)
    elif _native(logits, kernels):
        _loops.mask_numba(logits, masks)
    else:
        torch_impl.mask_torch(logits, masks)


def add_to_logits(logits: Tensor, added: Entries, *, kernels: Kernels | None = None) -> None:
    """Adds the values of entries to the logits [B, V]; -infinity bans a token.

    The caller must keep the ids below V. ``kernels``, errors: as :func:`mask_logits`.
    """
    _checked(logits)
    triton = chosen(__name__, kernels, logits)
    if triton is not None:
        triton.add_triton(logits, added)
    elif _native(logits, kernels):
        _loops.add_numba(logits, added)
    else:
        torch_impl.add_torch(logits, added)


def penalise(logits: Tensor, seen: Entries, factors: Floats, *, kernels: Kernels | None = None) -> Tensor:
    """Penalises the seen tokens of logits [B, V] and returns the logits that they had, [E].

    ``seen``: the tokens of a row's prompt and output, whose values count how often each stands in the output;
    ``factors`` float64 [B, 3]: presence, frequency and repetition penalty. Formula: ``reference.py``. The
    caller must keep the ids below V. ``kernels``, errors: as :func:`mask_logits`.
    """
    _checked(logits)
    triton = chosen(__name__, kernels, logits)
    if triton is not None:
        before: Tensor = triton.penalise_triton(logits, seen, factors)
        return before
    if _native(logits, kernels):
        return _loops.penalise_numba(logits, seen, factors)
    return torch_impl.penalise_torch(logits, seen, factors)


def restore(logits: Tensor, seen: Entries, before: Tensor, *, kernels: Kernels | None = None) -> None:
    """Gives the seen tokens of logits [B, V] the logits back that :func:`penalise` returned.

    ``kernels``, errors: as :func:`mask_logits`.
    """
    _checked(logits)
    triton = chosen(__name__, kernels, logits, before)
    if triton is not None:
        triton.restore_triton(logits, seen, before)
    elif _native(logits, kernels):
        _loops.restore_numba(logits, seen, before)
    else:
        torch_impl.restore_torch(logits, seen, before)


def warmup() -> None:
    """Compiles the native loops now, or loads them from disk, so that no request waits."""
    if _loops is not None:
        _loops.warmup_numba()
