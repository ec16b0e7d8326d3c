"""Logits statistics on the CPU in float32: native loops that read a row twice and keep a chunk in cache."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._exp2 import LOG2_E, LOWEST, exp2
from .._native import native, native_worker
from .._rows import first_nan, row_top
from .._threads import (
    RECORD,
    address,
    claim,
    record,
    record_type,
    run_shared,
    threads_for,
    torch_openmp,
)
from .torch_impl import ALL_MASKED_FLAG, NAN_FLAG, POSITIVE_INFINITY_FLAG, LogitsStats

Float32 = npt.NDArray[np.float32]

_CHUNK: Final = 1024
_ZERO: Final = np.float32(0.0)
_WORK_PER_LOGIT: Final = 8
"""multiply-adds that a logit is worth, for the choice of threads"""
_ARGUMENTS: Final = record_type("rows vocabulary x figures flags")
_NAN: Final = int(NAN_FLAG)
_INFINITE: Final = int(POSITIVE_INFINITY_FLAG)
_MASKED: Final = int(ALL_MASKED_FLAG)

MOMENT_CHUNK: Final = _CHUNK
"""Floats of the scratch that :func:`row_stats` wants."""


@native("contract", "reassoc", "nsz")
def chunk_moments(x: Float32, lo: int, hi: int, top: Any, weights: Float32) -> tuple[Any, Any, Any]:
    """Returns (z, mean, centred second moment) of y = (x[lo:hi] - top) log2 e under the weights 2^y; bits."""
    z = first = second = _ZERO
    for i in range(hi - lo):
        y = np.float32((x[lo + i] - top) * LOG2_E)
        w = exp2(y)
        weights[i] = _ZERO if y < LOWEST else w
    # a loop that sums must not store: LLVM would guard it by a check of addresses, and behind that guard the
    # order of the sums is another one
    for i in range(hi - lo):
        y = np.float32((x[lo + i] - top) * LOG2_E)
        y = LOWEST if y < LOWEST else y
        z += weights[i]
        first += weights[i] * y
    mean = first / z if z != _ZERO else _ZERO
    for i in range(hi - lo):
        y = np.float32((x[lo + i] - top) * LOG2_E)
        y = LOWEST if y < LOWEST else y
        d = y - mean
        second += weights[i] * d * d
    return z, mean, second


@native()
def row_stats(x: Float32, figures: Float32, weights: Float32) -> tuple[int, int]:
    """Returns (argmax, flag) of x [V]; sets figures = (H, V, maximum, ln z); ``weights`` is scratch."""
    index = row_top(x)
    top = x[index]
    if not (top > -math.inf and top < math.inf):  # rare: the integers may have passed over a NaN
        nan = first_nan(x)
        if nan < 0 and top < 0:
            figures[:] = _ZERO
            figures[2] = top
            return 0, _MASKED
        figures[:] = np.float32(math.nan)
        if nan < 0:
            figures[2] = top
            return index, _INFINITE
        return nan, _NAN
    z, mean, second = 0.0, 0.0, 0.0
    for lo in range(0, x.shape[0], _CHUNK):
        # Chan, Golub, LeVeque (1979): moments of a union; in float64, so that no length can hurt
        part, centre, spread = chunk_moments(x, lo, min(lo + _CHUNK, x.shape[0]), top, weights)
        if part != 0:
            d, union = centre - mean, z + part
            second += spread + d * d * (z * part / union)
            mean += d * (part / union)
            z = union
    if math.isnan(z):
        figures[:] = np.float32(math.nan)
        return first_nan(x), _NAN
    figures[0] = math.log2(z) - mean
    figures[1] = second / z
    figures[2] = top
    figures[3] = math.log(z)
    return index, 0


@native("contract", "reassoc", "nsz")
def chunk_sum(x: Float32, lo: int, hi: int, top: Any) -> Any:
    """Returns the sum of exp(x[lo:hi] - top)."""
    z = _ZERO
    for i in range(hi - lo):
        y = np.float32((x[lo + i] - top) * LOG2_E)
        w = exp2(y)
        z += _ZERO if y < LOWEST else w
    return z


@native()
def row_log_z(x: Float32, figures: Float32) -> tuple[int, int]:
    """Returns (argmax, flag) of x [V]; of figures sets only the maximum [2] and ln z [3]."""
    index = row_top(x)
    top = x[index]
    figures[2] = top
    if not (top > -math.inf and top < math.inf):
        nan = first_nan(x)
        figures[3] = np.float32(math.nan)
        return (nan, _NAN) if nan >= 0 else (index, _MASKED if top < 0 else _INFINITE)
    z = 0.0
    for lo in range(0, x.shape[0], _CHUNK):
        z += chunk_sum(x, lo, min(lo + _CHUNK, x.shape[0]), top)
    figures[3] = math.log(z)
    return (index, 0) if not math.isnan(z) else (first_nan(x), _NAN)


@native()
def rows_stats(x: Float32, figures: Float32, flags: Any, begin: int, end: int) -> None:
    """Measures rows begin..end of x [B, V]: figures [B, 4], flags int32 [B]."""
    weights = np.empty(_CHUNK, dtype=np.float32)
    for b in range(begin, end):
        _, flags[b] = row_stats(x[b], figures[b], weights)


def _worker(data: Any) -> None:
    """Measures one thread's rows."""
    a = numba.carray(address(data[RECORD]), (1,), _ARGUMENTS)[0]
    x = numba.carray(address(a.x), (a.rows, a.vocabulary), np.float32)
    figures = numba.carray(address(a.figures), (a.rows, 4), np.float32)
    flags = numba.carray(address(a.flags), (a.rows,), np.int32)
    b = claim(data, 0)
    while b < a.rows:
        rows_stats(x, figures, flags, b, b + 1)
        b = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    """Returns :func:`_worker` as machine code; compiled at the first use, not at import."""
    return native_worker(_worker)


def logits_stats_numba(logits: Tensor) -> LogitsStats:
    """Implements :func:`entropick_kernels.logits_stats.logits_stats`; not for float64, on the CPU."""
    x = logits.detach().float().contiguous()
    rows, vocabulary = x.shape
    figures, flags = torch.empty(rows, 4), torch.empty(rows, dtype=torch.int32)
    arrays = {"x": x.numpy(), "figures": figures.numpy(), "flags": flags.numpy()}
    threads = min(rows, threads_for(rows * vocabulary * _WORK_PER_LOGIT))
    if threads > 1:
        run_shared(
            _compiled_worker(), record(_ARGUMENTS, rows=rows, vocabulary=vocabulary, **arrays), threads
        )
    else:
        rows_stats(arrays["x"], arrays["figures"], arrays["flags"], 0, rows)
    entropy, varentropy, top, log_z = figures.unbind(1)
    return LogitsStats(entropy, varentropy, top, log_z, flags)


def warmup_numba() -> None:
    """Compiles the loops, or loads them from disk."""
    if torch_openmp() is not None:
        _compiled_worker()
    logits_stats_numba(torch.zeros(1, 8))
