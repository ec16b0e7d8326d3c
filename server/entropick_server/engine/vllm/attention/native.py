"""The statistics as native loops over vLLM's transposed pages, for steps in which torch's launches dominate.

The same sums as the embedded engine's loops (``entropick_kernels.attention_stats.numba_loops``), over a row's
own keys in their order: a row's numbers depend on that row alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from entropick_kernels._native import native
from entropick_kernels.attention_stats import HeadStats
from entropick_kernels.attention_stats.numba_loops import Float32, Int32, check, deviations, softmax

WORTH_THREADS: Final = 1 << 22
"""multiply-adds of a layer from which torch's threads and products are faster"""
_ZERO: Final = np.float32(0.0)


@native("contract", "reassoc", "nsz")
def dots(query: Float32, keys: Float32, first: int, count: int, scale: Any, scores: Float32, at: int) -> None:
    """scores[at : at + count] = scale * query @ keys[:D, first : first + count]."""
    for j in range(count):
        scores[at + j] = _ZERO
    width, d = query.shape[0], 0
    while d + 4 <= width:
        x0, x1, x2, x3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        for j in range(count):
            i = first + j
            scores[at + j] += (
                x0 * keys[d, i] + x1 * keys[d + 1, i] + x2 * keys[d + 2, i] + x3 * keys[d + 3, i]
            )
        d += 4
    while d < width:
        for j in range(count):
            scores[at + j] += query[d] * keys[d, first + j]
        d += 1
    for j in range(count):
        scores[at + j] *= scale


@native()
def rows_of_layer(
    q: Float32,
    pages: Float32,
    table: Int32,
    lengths: Int32,
    scale: Any,
    window: int,
    softcap: Any,
    p: Float32,
    mean: Float32,
    figures: Float32,
) -> None:
    """figures [B, H, 4] of one layer; ``p`` [H, K] and ``mean`` [K] are scratch. Passed :func:`check`."""
    kv_heads, page = pages.shape[1], pages.shape[3]
    heads = q.shape[1]
    group = heads // kv_heads
    for b in range(q.shape[0]):
        length = lengths[b]
        start = length - window if 0 < window < length else 0
        n = length - start
        for g in range(heads):
            t = start
            while t < length:
                i = t % page
                count = min(page - i, length - t)
                keys = pages[table[b, t // page], g // group]
                dots(q[b, g], keys, i, count, scale, p[g], t - start)
                t += count
            if softcap > 0:
                for j in range(n):
                    p[g, j] = softcap * np.float32(np.tanh(p[g, j] / softcap))
            softmax(p[g], n, figures[b, g])
        deviations(p, n, mean, figures[b])


def serves(queries: Tensor, pages: Tensor) -> bool:
    """Whether the loops take these tensors: CPU, float32, contiguous pages."""
    return queries.dtype == pages.dtype == torch.float32 and not queries.is_cuda and pages.is_contiguous()


def measure_native(
    queries: Tensor, pages: Tensor, table: Tensor, lengths: Tensor, scale: float, window: int | None,
    softcap: float,
) -> HeadStats:  # fmt: skip
    """One layer: queries [B, H, D], pages [P, Hk, D or more, page], keys in the first D rows.

    Raises IndexError where a page or a length is out of range.
    """
    rows, heads, _ = queries.shape
    ends, page, reach = lengths.to(torch.int32), pages.shape[3], window or 0
    at, of = table.to(torch.int32).contiguous().numpy(), ends.contiguous().numpy()
    check(at, of, pages.shape[0], page, reach)
    span = at.shape[1] * page
    figures = np.empty((rows, heads, 4), dtype=np.float32)
    rows_of_layer(
        queries.contiguous().numpy(), pages.numpy(), at, of, np.float32(scale), reach, np.float32(softcap),
        np.empty((heads, span), dtype=np.float32), np.empty(span, dtype=np.float32), figures,
    )  # fmt: skip
    entropy, normalized, size, deviation = torch.from_numpy(figures).unbind(-1)
    keys = ends.long() if window is None else ends.long().clamp(max=window)
    return HeadStats(entropy, normalized, size, deviation, keys)


def warm() -> None:
    """Compile the loops now, or load them from numba's cache."""
    one = torch.ones(1, dtype=torch.int32)
    measure_native(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1), one, 1.0, None, 0.0)
