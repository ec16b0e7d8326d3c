"""The adjustments of logits on the CPU in float32: native loops, row by row, in place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._native import native
from .arrays import Entries, Floats, Masks
from .numba_loops import add_row, mask_row, penalise_row, restore_row

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@native()
def _mask_rows(x: Float32, rows: Int64, words: Int32) -> None:
    for m in range(rows.shape[0]):
        mask_row(x[rows[m]], words[m])


@native()
def _add_rows(x: Float32, starts: Int64, ids: Int64, values: Float64) -> None:
    for b in range(starts.shape[0] - 1):
        add_row(x[b], ids[starts[b] : starts[b + 1]], values[starts[b] : starts[b + 1]])


@native()
def _penalise_rows(
    x: Float32, starts: Int64, ids: Int64, counts: Float64, factors: Float64, before: Float32
) -> None:
    for b in range(starts.shape[0] - 1):
        lo, hi = starts[b], starts[b + 1]
        penalise_row(x[b], ids[lo:hi], counts[lo:hi], factors[b], before[lo:hi])


@native()
def _restore_rows(x: Float32, starts: Int64, ids: Int64, before: Float32) -> None:
    for b in range(starts.shape[0] - 1):
        restore_row(x[b], ids[starts[b] : starts[b + 1]], before[starts[b] : starts[b + 1]])


def mask_numba(logits: Tensor, masks: Masks) -> None:
    """Implements :func:`entropick_kernels.adjust.mask_logits`; contiguous float32 on the CPU."""
    _mask_rows(logits.numpy(), masks.rows, masks.words)


def add_numba(logits: Tensor, added: Entries) -> None:
    """Implements :func:`entropick_kernels.adjust.add_to_logits`; contiguous float32 on the CPU."""
    _add_rows(logits.numpy(), *added)


def penalise_numba(logits: Tensor, seen: Entries, factors: Floats) -> Tensor:
    """Implements :func:`entropick_kernels.adjust.penalise`; contiguous float32 on the CPU."""
    before = np.empty(len(seen.ids), dtype=np.float32)
    _penalise_rows(logits.numpy(), *seen, factors, before)
    return torch.from_numpy(before)


def restore_numba(logits: Tensor, seen: Entries, before: Tensor) -> None:
    """Implements :func:`entropick_kernels.adjust.restore`; contiguous float32 on the CPU."""
    _restore_rows(logits.numpy(), seen.starts, seen.ids, before.numpy())


def warmup_numba() -> None:
    """Compiles the loops, or loads them from disk."""
    x = torch.zeros(1, 8)
    entries = Entries(np.array([0, 1]), np.array([0]), np.array([0.0]))
    mask_numba(x, Masks(np.array([0]), np.array([[-1]], dtype=np.int32)))
    add_numba(x, entries)
    factors = np.array([[0.0, 0.0, 1.0]])
    restore_numba(x, entries, penalise_numba(x, entries, factors))
