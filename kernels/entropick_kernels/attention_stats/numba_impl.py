"""Decode attention on the CPU in float32: the native loops behind the public function."""

from __future__ import annotations

import functools
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from .._native import native_worker
from .._threads import address, claim, run, threads_for, torch_openmp
from .numba_loops import attend, check, finish, store
from .stats import HeadStats

_SCRATCH_FLOATS: Final = 1 << 24
"""probabilities kept at a time (64 MiB): a larger batch goes through in blocks of rows"""


def supports(q: Tensor, *pages: Tensor) -> bool:
    """Whether the native loops serve these tensors: CPU, float32, contiguous pages."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, *pages)) and all(
        t.is_contiguous() for t in pages
    )


def _worker(data: Any) -> None:
    """One thread's share of :func:`attend` (phase 0; 2 without an output) or :func:`finish` (phase 1).

    ``data`` is laid out below.
    """
    rows, heads, width, kv_heads = data[2], data[3], data[4], data[5]
    count, page, columns, span = data[6], data[7], data[8], data[9]
    reach, phase = data[10], data[11]
    lengths = numba.carray(address(data[16]), (rows,), np.int32)
    p = numba.carray(address(data[17]), (rows, heads, span), np.float32)
    figures = numba.carray(address(data[18]), (rows, heads, 4), np.float32)
    if phase == 1:
        b = claim(data, 1)
        while b < rows:
            finish(p, lengths, reach, figures, b, b + 1)
            b = claim(data, 1)
        return
    options = numba.carray(address(data[20]), (2,), np.float32)
    q = numba.carray(address(data[12]), (rows, heads, width), np.float32)
    k_pages = numba.carray(address(data[13]), (count, kv_heads, page, width), np.float32)
    v_pages = numba.carray(address(data[14]), (count, kv_heads, page, width), np.float32)
    table = numba.carray(address(data[15]), (rows, columns), np.int32)
    out = numba.carray(address(data[19]), (rows, heads, width), np.float32)
    unit = claim(data, 0)
    while unit < rows * kv_heads:
        attend(
            q,
            k_pages,
            v_pages,
            table,
            lengths,
            options[0],
            reach,
            options[1],
            p,
            out,
            figures,
            unit,
            unit + 1,
            phase == 0,
        )
        unit = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    """:func:`_worker` as machine code; compiled at the first use, not at import."""
    return native_worker(_worker)


def _attend_threaded(
    q: Any, k: Any, v: Any, table: Any, lengths: Any, options: Any, reach: int, p: Any, out: Any,
    figures: Any, want_out: bool, want_stats: bool, threads: int,
) -> None:  # fmt: skip
    """:func:`attend` and :func:`finish` on torch's threads; the same numbers as one thread gives."""
    rows, heads, width = q.shape
    count, kv_heads, page, _ = k.shape
    arrays = (q, k, v, table, lengths, p, figures, out, options)
    sizes = (rows, heads, width, kv_heads, count, page, table.shape[1], p.shape[2], reach)
    phase = 0 if want_out else 2
    data = np.array([0, 0, *sizes, phase, *(a.ctypes.data for a in arrays)], dtype=np.int64)
    run(_compiled_worker(), data, threads)
    if want_stats:
        data[11] = 1
        run(_compiled_worker(), data, threads)


def decode_attention_numba(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    want_stats: bool = True,
) -> tuple[Tensor, HeadStats | None]:
    """See :func:`entropick_kernels.attention_stats.decode_attention`."""
    out = np.empty(q.shape, dtype=np.float32)
    figures = _run(q, k_pages, v_pages, page_table, lengths, out, scale, window, softcap, want_stats)
    return torch.from_numpy(out), _stats(figures, lengths, window) if want_stats else None


def measure_attention_numba(
    q: Tensor,
    k_pages: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> HeadStats:
    """See :func:`entropick_kernels.attention_stats.measure_attention`."""
    figures = _run(q, k_pages, None, page_table, lengths, None, scale, window, softcap, True)
    return _stats(figures, lengths, window)


def _stats(figures: Any, lengths: Tensor, window: int | None) -> HeadStats:
    """The figures [B, H, 4] by name."""
    keys = lengths.long() if window is None else lengths.long().clamp(max=window)
    entropy, normalized, size, deviation = torch.from_numpy(figures).unbind(-1)
    return HeadStats(entropy, normalized, size, deviation, keys)


def _run(
    q: Tensor, k_pages: Tensor, v_pages: Tensor | None, page_table: Tensor, lengths: Tensor, out: Any,
    scale: float, window: int | None, softcap: float | None, want_stats: bool,
) -> Any:  # fmt: skip
    """Fill ``out`` where there are values; the figures [B, H, 4] in the order of HeadStats."""
    rows, heads, width = q.shape
    count, kv_heads, page, _ = k_pages.shape
    figures = np.empty((rows, heads, 4), dtype=np.float32)
    span = page_table.shape[1] * page if window is None else min(page_table.shape[1] * page, window)
    block = min(rows, max(1, _SCRATCH_FLOATS // (heads * span)))
    p = np.empty((block, heads, span), dtype=np.float32)
    k, query, want_out = _numpy(k_pages), _numpy(q.contiguous()), v_pages is not None
    v, filled = (_numpy(v_pages), out) if v_pages is not None else (k, query)
    table, ends = (
        _numpy(page_table.to(torch.int32).contiguous()),
        _numpy(lengths.to(torch.int32).contiguous()),
    )
    reach, options = window or 0, np.array([scale, softcap or 0.0], dtype=np.float32)
    least = 1 if want_out else 0
    threads = threads_for(check(table, ends, count, page, reach, least) * heads * width)
    for lo in range(0, rows, block):
        part = slice(lo, lo + block)
        inputs, outputs = (query[part], k, v, table[part], ends[part]), (filled[part], figures[part])
        if threads > 1:
            _attend_threaded(*inputs, options, reach, p, *outputs, want_out, want_stats, threads)
        else:
            units = ends[part].shape[0] * kv_heads
            attend(*inputs, options[0], reach, options[1], p, *outputs, 0, units, want_out)
            if want_stats:
                finish(p, ends[part], reach, figures[part], 0, ends[part].shape[0])
    return figures


def _numpy(tensor: Tensor) -> Any:
    """The tensor's memory as a numpy array; gradients do not come this way."""
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def write_kv_numba(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """See :func:`entropick_kernels.attention_stats.write_kv`."""
    where = slots.to(torch.int32).contiguous()
    store(
        _numpy(k.contiguous()), _numpy(v.contiguous()), _numpy(k_pages), _numpy(v_pages), _numpy(where)
    )  # fmt: skip


def warmup_numba() -> None:
    """Compile the loops (or load them from numba's cache)."""
    if torch_openmp() is not None:
        _compiled_worker()
    pages = torch.zeros(1, 1, 4, 8)
    one = torch.ones(1, dtype=torch.int32)
    write_kv_numba(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8), pages, pages.clone(), one)
    table = torch.zeros(1, 1, dtype=torch.int32)
    query = torch.zeros(1, 1, 8)
    decode_attention_numba(query, pages, pages, table, one, scale=1.0, window=None, softcap=None)
    measure_attention_numba(query, pages, table, one, scale=1.0, window=None, softcap=None)
