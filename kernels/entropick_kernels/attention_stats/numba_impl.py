"""Decode attention on the CPU in float32: the native loops behind the public function."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from .numba_loops import attend, finish, store
from .stats import HeadStats

_SCRATCH_FLOATS: Final = 1 << 24
"""probabilities kept at a time (64 MiB): a larger batch goes through in blocks of rows"""


def supports(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> bool:
    """Whether the native loops serve these tensors: CPU, float32, contiguous pages."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, k_pages, v_pages)) and (
        k_pages.is_contiguous() and v_pages.is_contiguous()
    )


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
) -> tuple[Tensor, HeadStats]:
    """See :func:`entropick_kernels.attention_stats.decode_attention`."""
    rows, heads, _ = q.shape
    kv_heads, page = k_pages.shape[1], k_pages.shape[2]
    out = torch.empty(q.shape)
    figures = torch.empty(rows, heads, 4)
    keys = lengths.long() if window is None else lengths.long().clamp(max=window)
    span = page_table.shape[1] * page
    span = span if window is None else min(span, window)
    block = max(1, _SCRATCH_FLOATS // (heads * span))
    p = np.empty((min(block, rows), heads, span), dtype=np.float32)
    k, v = k_pages.detach().numpy(), v_pages.detach().numpy()
    query = q.detach().contiguous().numpy()
    table = page_table.to(torch.int32).contiguous().numpy()
    counts = lengths.to(torch.int32).contiguous().numpy()
    reach, cap = window or 0, np.float32(softcap or 0.0)
    answer, numbers = out.numpy(), figures.numpy()
    for lo in range(0, rows, block):
        part = slice(lo, lo + block)
        args = (query[part], k, v, table[part], counts[part], np.float32(scale), reach, cap)
        here = counts[part].shape[0]
        attend(*args, p, answer[part], numbers[part], 0, here * kv_heads)
        finish(p, counts[part], reach, numbers[part], 0, here)
    return out, HeadStats(
        entropy=figures[..., 0],
        entropy_normalized=figures[..., 1],
        mean_abs_score=figures[..., 2],
        deviation=figures[..., 3],
        keys=keys,
    )


def write_kv_numba(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """See :func:`entropick_kernels.attention_stats.write_kv`."""
    store(
        k.detach().contiguous().numpy(), v.detach().contiguous().numpy(),
        k_pages.detach().numpy(), v_pages.detach().numpy(),
        slots.to(torch.int32).contiguous().numpy(),
    )  # fmt: skip


def warmup_numba() -> None:
    """Compile the loops (or load them from numba's cache)."""
    pages = torch.zeros(1, 1, 4, 8)
    one = torch.ones(1, dtype=torch.int32)
    write_kv_numba(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8), pages, pages.clone(), one)
    table = torch.zeros(1, 1, dtype=torch.int32)
    query = torch.zeros(1, 1, 8)
    decode_attention_numba(query, pages, pages, table, one, scale=1.0, window=None, softcap=None)
