"""Logits statistics on the GPU, in Triton: one read of the logits, no synchronisation.

Two kernels. The first takes a chunk of 4096 logits of a row in registers and gives (maximum, z, mean, centred
second moment): the moments of y = (x - maximum) log2 e under the weights 2^y, in two passes over the
registers, for E[y^2] - E[y]^2 cancels. The second merges the chunks of a row by the rule of
Chan, Golub and LeVeque (1979), one program a row.

Chunks and orders of summation depend on V and on what the strides divide by, never on the batch: among
tensors laid out alike, a row has the same bits wherever it lies.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from .torch_impl import ALL_MASKED_FLAG, NAN_FLAG, POSITIVE_INFINITY_FLAG, LogitsStats

_NAN: Final = tl.constexpr(NAN_FLAG)
_INFINITE: Final = tl.constexpr(POSITIVE_INFINITY_FLAG)
_MASKED: Final = tl.constexpr(ALL_MASKED_FLAG)
_LOG2_E: Final = tl.constexpr(1.0 / math.log(2.0))
_FLOOR: Final = tl.constexpr(-1000.0)
# 2^-1000 is 0 in float32, and 0 * -1000 is 0 where 0 * -inf would be NaN
_PROPAGATE: Final = tl.constexpr(tl.PropagateNan.ALL)

_CHUNK: Final = 4096
_WARPS: Final = 8
_FIELDS: Final = tl.constexpr(4)
"""of a chunk: maximum, z, mean, second moment (bits)"""


@triton.jit(do_not_specialize=["chunks"])
def _chunk_moments(
    x_at, parts_at, vocabulary, chunks, row_stride, column_stride, GROUPS: tl.constexpr, GROUP: tl.constexpr
):
    """Measures a chunk a program, the chunks of a row side by side; sets parts [B, _FIELDS, chunks]."""
    program = tl.program_id(0)
    row = (program // chunks).to(tl.int64)
    chunk = program % chunks
    first = chunk * (GROUPS * GROUP)
    x_at += row * row_stride + first.to(tl.int64) * column_stride
    group, lane = tl.arange(0, GROUPS), tl.arange(0, GROUP)
    at = group[:, None] * GROUP + lane[None, :]
    if first + GROUPS * GROUP <= vocabulary:  # a mask would narrow the loads where 16 does not divide V
        x = tl.load(x_at + at.to(tl.int64) * column_stride)
    else:
        x = tl.load(x_at + at.to(tl.int64) * column_stride, mask=at < vocabulary - first, other=float("-inf"))
    x = x.to(tl.float32)
    top = tl.max(tl.max(x, axis=1), axis=0)
    origin = tl.where((top == float("-inf")) | (top == float("inf")), 0.0, top)
    # the difference first, then the factor: exact at logits of any size. A NaN stays one, up to z
    y = tl.maximum((x - origin) * _LOG2_E, _FLOOR, propagate_nan=_PROPAGATE)
    weight = tl.exp2(y)
    z = tl.sum(weight)
    mean = tl.sum(weight * y) / tl.where(z > 0.0, z, 1.0)
    y -= mean
    second = tl.sum(weight * y * y)
    parts_at += row * (chunks * _FIELDS) + chunk
    tl.store(parts_at, top)
    tl.store(parts_at + chunks, z)
    tl.store(parts_at + chunks * 2, mean)
    tl.store(parts_at + chunks * 3, second)


@triton.jit(do_not_specialize=["rows", "chunks"])
def _merge(parts_at, figures_at, flags_at, rows, chunks, CHUNKS: tl.constexpr):
    """Merges the chunks of a row; figures [4, B] are the float32 fields of ``LogitsStats``, in order."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    valid = chunk < chunks
    parts_at += row * (chunks * _FIELDS) + chunk
    tops = tl.load(parts_at, mask=valid, other=float("-inf"))
    z = tl.load(parts_at + chunks, mask=valid, other=0.0)
    means = tl.load(parts_at + chunks * 2, mask=valid, other=0.0)
    seconds = tl.load(parts_at + chunks * 3, mask=valid, other=0.0)

    nan = tl.max((z != z).to(tl.int32), axis=0) > 0
    top = tl.max(tops, axis=0)
    infinite, masked = top == float("inf"), top == float("-inf")
    origin = tl.where(infinite | masked, 0.0, top)
    shift = tl.maximum((tops - origin) * _LOG2_E, _FLOOR)
    scale = tl.exp2(shift)
    z *= scale
    total = tl.sum(z, axis=0)
    total = tl.where(total > 0.0, total, 1.0)
    means += shift
    mean = tl.sum(z * means, axis=0) / total
    away = means - mean
    second = tl.sum(seconds * scale + z * away * away, axis=0)

    bad = nan | infinite
    undefined = float("nan")
    tl.store(figures_at + row, tl.where(bad, undefined, tl.log2(total) - mean))
    figures_at += rows
    tl.store(figures_at + row, tl.where(bad, undefined, second / total))
    figures_at += rows
    tl.store(figures_at + row, tl.where(nan, undefined, top))
    figures_at += rows
    tl.store(figures_at + row, tl.where(bad, undefined, tl.log(total)))
    flag = tl.where(nan, _NAN, tl.where(infinite, _INFINITE, tl.where(masked, _MASKED, 0)))
    tl.store(flags_at + row, flag.to(tl.int32))


def logits_stats_triton(logits: Tensor) -> LogitsStats:
    """Implements :func:`entropick_kernels.logits_stats.logits_stats`; fp32, bf16 or fp16, any strides."""
    rows, vocabulary = logits.shape
    row_stride, column_stride = logits.stride()
    chunks = triton.cdiv(vocabulary, _CHUNK)
    device = logits.device
    parts = torch.empty((rows, _FIELDS.value, chunks), dtype=torch.float32, device=device)
    figures = torch.empty((4, rows), dtype=torch.float32, device=device)
    flags = torch.empty(rows, dtype=torch.int32, device=device)
    # a group is what one load of 128 bits brings, else one logit: then its maximum needs no other thread
    group = 16 // logits.element_size() if column_stride == 1 and row_stride % 16 == 0 else 1
    with torch.cuda.device_of(logits):
        _chunk_moments[(rows * chunks,)](
            logits, parts, vocabulary, chunks, row_stride, column_stride,
            GROUPS=_CHUNK // group, GROUP=group, num_warps=_WARPS,
        )  # fmt: skip
        _merge[(rows,)](
            parts, figures, flags, rows, chunks, CHUNKS=triton.next_power_of_2(chunks), num_warps=1
        )
    entropy, varentropy, top, log_z = figures.unbind()
    return LogitsStats(entropy, varentropy, top, log_z, flags)
