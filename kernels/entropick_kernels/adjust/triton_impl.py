"""The adjustments of logits on the GPU, in Triton, in place: a launch each, no synchronisation."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arrays import LARGEST, WORD_BITS, Entries, Floats, Masks, on_device

_CHUNK: Final = 1024
_ENTRIES: Final = 128
_LARGEST: Final = tl.constexpr(LARGEST)
_WORD_BITS: Final = tl.constexpr(WORD_BITS)
STRIDES: Final = ["entries", "count", "row_stride", "column_stride", "word_stride"]


@triton.jit(do_not_specialize=STRIDES)
def _mask_rows(
    x_at, rows_at, words_at, vocabulary, count, row_stride, column_stride, word_stride, CHUNK: tl.constexpr
):
    """Masks CHUNK tokens of a row a program."""
    mask = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_at + mask).to(tl.int64)
    token = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    word = token // _WORD_BITS
    words = tl.load(words_at + mask * word_stride + word, mask=word < count, other=0)
    excluded = ((words >> (token % _WORD_BITS)) & 1) == 0
    at = x_at + row * row_stride + token.to(tl.int64) * column_stride
    tl.store(at, tl.full((CHUNK,), float("-inf"), tl.float32), mask=excluded & (token < vocabulary))


@triton.jit(do_not_specialize=STRIDES)
def _add_entries(
    x_at, rows_at, ids_at, values_at, entries, row_stride, column_stride, SIZE: tl.constexpr
):  # fmt: skip
    """Adds to SIZE tokens a program."""
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = entry < entries
    row = tl.load(rows_at + entry, mask=inside, other=0)
    token = tl.load(ids_at + entry, mask=inside, other=0)
    at = x_at + row * row_stride + token * column_stride
    x = tl.load(at, mask=inside, other=0.0).to(tl.float64)
    value = tl.load(values_at + entry, mask=inside, other=0.0)
    tl.store(at, (x + value).to(x_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=STRIDES)
def _penalise_entries(
    x_at, rows_at, ids_at, counts_at, factors_at, before_at, entries, row_stride, column_stride,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Penalises SIZE tokens a program and keeps their logits."""
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = entry < entries
    row = tl.load(rows_at + entry, mask=inside, other=0)
    token = tl.load(ids_at + entry, mask=inside, other=0)
    count = tl.load(counts_at + entry, mask=inside, other=0.0)
    presence = tl.load(factors_at + row * 3, mask=inside, other=0.0)
    frequency = tl.load(factors_at + row * 3 + 1, mask=inside, other=0.0)
    repetition = tl.load(factors_at + row * 3 + 2, mask=inside, other=1.0)
    at = x_at + row * row_stride + token * column_stride
    before = tl.load(at, mask=inside, other=0.0)
    tl.store(before_at + entry, before, mask=inside)
    x = before.to(tl.float64)
    value = tl.where(x > 0, x / repetition, x * repetition)
    value = value - frequency * count - tl.where(count > 0, presence, 0.0)
    value = tl.minimum(tl.maximum(value, -_LARGEST), _LARGEST)
    value = tl.where(x == float("-inf"), x, value)
    tl.store(at, value.to(x_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=STRIDES)
def _restore_entries(
    x_at, rows_at, ids_at, before_at, entries, row_stride, column_stride, SIZE: tl.constexpr
):  # fmt: skip
    """Gives SIZE tokens a program their logits back."""
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = entry < entries
    row = tl.load(rows_at + entry, mask=inside, other=0)
    token = tl.load(ids_at + entry, mask=inside, other=0)
    before = tl.load(before_at + entry, mask=inside, other=0.0)
    tl.store(x_at + row * row_stride + token * column_stride, before, mask=inside)


def mask_triton(logits: Tensor, masks: Masks) -> None:
    """Implements :func:`entropick_kernels.adjust.mask_logits`; on the GPU, any strides."""
    vocabulary, words = logits.shape[1], on_device(masks.words, logits.device)
    rows = on_device(masks.rows, logits.device)
    grid = (triton.cdiv(vocabulary, _CHUNK), len(rows))
    _mask_rows[grid](
        logits, rows, words, vocabulary, words.shape[1], *logits.stride(), words.stride(0), CHUNK=_CHUNK
    )


def _placed(logits: Tensor, entries: Entries) -> tuple[tuple[int], Tensor, Tensor]:
    """Returns the grid of a kernel over entries, and the rows and ids of the entries on the device."""
    rows, ids = (on_device(array, logits.device) for array in (entries.rows, entries.ids))
    return (triton.cdiv(len(entries.ids), _ENTRIES),), rows, ids


def add_triton(logits: Tensor, added: Entries) -> None:
    """Implements :func:`entropick_kernels.adjust.add_to_logits`; on the GPU, any strides."""
    grid, rows, ids = _placed(logits, added)
    values = on_device(added.values, logits.device)
    _add_entries[grid](logits, rows, ids, values, len(added.ids), *logits.stride(), SIZE=_ENTRIES)


def penalise_triton(logits: Tensor, seen: Entries, factors: Floats) -> Tensor:
    """Implements :func:`entropick_kernels.adjust.penalise`; on the GPU, any strides."""
    grid, rows, ids = _placed(logits, seen)
    counts, of_rows = (on_device(array, logits.device) for array in (seen.values, factors))
    before = torch.empty(len(seen.ids), dtype=logits.dtype, device=logits.device)
    _penalise_entries[grid](
        logits, rows, ids, counts, of_rows, before, len(seen.ids), *logits.stride(), SIZE=_ENTRIES
    )
    return before


def restore_triton(logits: Tensor, seen: Entries, before: Tensor) -> None:
    """Implements :func:`entropick_kernels.adjust.restore`; on the GPU, any strides."""
    grid, rows, ids = _placed(logits, seen)
    _restore_entries[grid](logits, rows, ids, before, len(seen.ids), *logits.stride(), SIZE=_ENTRIES)
