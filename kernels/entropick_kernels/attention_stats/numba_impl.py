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


def supports(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> bool:
    """Whether the native loops serve these tensors: CPU, float32, contiguous pages."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, k_pages, v_pages)) and (
        k_pages.is_contiguous() and v_pages.is_contiguous()
    )


def _worker(data: Any) -> None:
    """One thread's share of :func:`attend` or, in phase 1, of :func:`finish`; ``data`` is laid out below."""
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
        )
        unit = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    """:func:`_worker` as machine code; compiled at the first use, not at import."""
    return native_worker(_worker)


def _attend_threaded(
    q: Any, k: Any, v: Any, table: Any, lengths: Any, options: Any, reach: int, p: Any, out: Any,
    figures: Any, want_stats: bool, threads: int,
) -> None:  # fmt: skip
    """:func:`attend` and :func:`finish` on torch's threads; the same numbers as one thread gives."""
    rows, heads, width = q.shape
    count, kv_heads, page, _ = k.shape
    arrays = (q, k, v, table, lengths, p, figures, out, options)
    sizes = (rows, heads, width, kv_heads, count, page, table.shape[1], p.shape[2], reach)
    data = np.array([0, 0, *sizes, 0, *(a.ctypes.data for a in arrays)], dtype=np.int64)
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
    rows, heads, width = q.shape
    count, kv_heads, page, _ = k_pages.shape
    out = np.empty((rows, heads, width), dtype=np.float32)
    figures = np.empty((rows, heads, 4), dtype=np.float32)
    span = page_table.shape[1] * page if window is None else min(page_table.shape[1] * page, window)
    block = min(rows, max(1, _SCRATCH_FLOATS // (heads * span)))
    p = np.empty((block, heads, span), dtype=np.float32)
    k, v, query = _numpy(k_pages), _numpy(v_pages), _numpy(q.contiguous())
    table, ends = (
        _numpy(page_table.to(torch.int32).contiguous()),
        _numpy(lengths.to(torch.int32).contiguous()),
    )
    reach, options = window or 0, np.array([scale, softcap or 0.0], dtype=np.float32)
    threads = threads_for(check(table, ends, count, page, reach) * heads * width)
    for lo in range(0, rows, block):
        part = slice(lo, lo + block)
        inputs, outputs = (query[part], k, v, table[part], ends[part]), (out[part], figures[part])
        if threads > 1:
            _attend_threaded(*inputs, options, reach, p, *outputs, want_stats, threads)
        else:
            attend(*inputs, options[0], reach, options[1], p, *outputs, 0, ends[part].shape[0] * kv_heads)
            if want_stats:
                finish(p, ends[part], reach, figures[part], 0, ends[part].shape[0])
    if not want_stats:
        return torch.from_numpy(out), None
    keys = lengths.long() if window is None else lengths.long().clamp(max=window)
    entropy, normalized, size, deviation = torch.from_numpy(figures).unbind(-1)
    return torch.from_numpy(out), HeadStats(entropy, normalized, size, deviation, keys)


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
