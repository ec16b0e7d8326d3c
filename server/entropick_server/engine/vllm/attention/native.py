"""The statistics as native loops over vLLM's transposed pages, for steps in which torch's launches dominate.

The same sums as the embedded engine's loops (``entropick_kernels.attention_stats.numba_loops``), over a row's
own keys in their order: a row's numbers depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels._native import native
from entropick_kernels.attention_stats import HeadStats
from entropick_kernels.attention_stats.numba_loops import Float32, Int32, check, deviations, softmax

WORTH_THREADS: Final = 1 << 22
"""multiply-adds of a layer from which torch's threads and products are faster"""
_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_TWO: Final = np.float32(2.0)
Int64 = npt.NDArray[np.int64]


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


@native("contract", "reassoc", "nsz")
def signals_of(
    figures: Float32, lengths: Int32, windows: Int32, by_layer: Float32, signals: Float32, keys: Int64
) -> None:
    """by_layer [L, B, 6] and its mean signals [B, 6] from figures [L, B, H, 4], as ``layer_signals`` does.

    ``keys`` [L, B]: the number of valid keys, filled here.
    """
    layers, rows, heads, _ = figures.shape
    share = np.float32(1.0 / heads)
    for b in range(rows):
        for s in range(6):
            signals[b, s] = _ZERO
        for at in range(layers):
            n = lengths[b]
            n = windows[at] if 0 < windows[at] < n else n
            keys[at, b] = n
            entropy = normalized = size = deviation = spread = _ZERO
            for h in range(heads):
                entropy += figures[at, b, h, 0]
                normalized += figures[at, b, h, 1]
                size += figures[at, b, h, 2]
                deviation += figures[at, b, h, 3]
            entropy *= share
            deviation *= share
            for h in range(heads):
                apart = figures[at, b, h, 0] - entropy
                spread += apart * apart
            by_layer[at, b, 0] = entropy
            by_layer[at, b, 1] = normalized * share
            by_layer[at, b, 2] = spread * share
            by_layer[at, b, 3] = _ONE - deviation
            by_layer[at, b, 4] = _TWO * deviation / np.float32(n)
            by_layer[at, b, 5] = size * share
            for s in range(6):
                signals[b, s] += by_layer[at, b, s]
        for s in range(6):
            signals[b, s] /= np.float32(layers)


def serves(queries: Tensor, pages: Tensor) -> bool:
    """Whether the loops take these tensors: CPU, float32, contiguous pages."""
    return queries.dtype == pages.dtype == torch.float32 and not queries.is_cuda and pages.is_contiguous()


class Layer(NamedTuple):
    """One layer: queries [B, H, D], pages [P, Hk, D or more, page] with keys in their first D rows."""

    queries: Tensor
    pages: Tensor
    scale: float
    window: int | None
    softcap: float


def measure_native(
    layers: Sequence[Layer], table: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, HeadStats]:
    """Signals [B, 6], by layer [L, B, 6], by head (fields [L, B, H]) of layers that share their pages.

    ``table`` int [B, N], ``lengths`` int [B]. Raises IndexError where a page or a length is out of range.
    """
    rows, heads, _ = layers[0].queries.shape
    page = layers[0].pages.shape[3]
    at = table.to(torch.int32).contiguous().numpy()
    of = lengths.to(torch.int32).contiguous().numpy()
    span = at.shape[1] * page
    p, mean = np.empty((heads, span), dtype=np.float32), np.empty(span, dtype=np.float32)
    figures = np.empty((len(layers), rows, heads, 4), dtype=np.float32)
    windows = np.array([layer.window or 0 for layer in layers], dtype=np.int32)
    for layer, window, out in zip(layers, windows, figures, strict=True):
        check(at, of, layer.pages.shape[0], page, window)
        rows_of_layer(
            layer.queries.contiguous().numpy(), layer.pages.numpy(), at, of, np.float32(layer.scale), window,
            np.float32(layer.softcap), p, mean, out,
        )  # fmt: skip
    by_layer = np.empty((len(layers), rows, 6), dtype=np.float32)
    signals = np.empty((rows, 6), dtype=np.float32)
    keys = np.empty((len(layers), rows), dtype=np.int64)
    signals_of(figures, of, windows, by_layer, signals, keys)
    entropy, normalized, size, deviation = torch.from_numpy(figures).unbind(-1)
    stats = HeadStats(entropy, normalized, size, deviation, torch.from_numpy(keys))
    return torch.from_numpy(signals), torch.from_numpy(by_layer), stats


def warm() -> None:
    """Compile the loops now, or load them from numba's cache."""
    one = torch.ones(1, dtype=torch.int32)
    layer = Layer(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, 2), 1.0, None, 0.0)
    measure_native([layer], torch.zeros(1, 1), one)
