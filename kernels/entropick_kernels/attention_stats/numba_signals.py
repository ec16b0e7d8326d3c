"""The six attention signals of a layer and their mean over layers: the native ``stats.layer_signals``.

A caller says by a zero of that type in which precision sums are made: float64 in the native decoder, float32
where a few rows are measured layer by layer, as torch sums those of many rows.
"""

from __future__ import annotations

from typing import Any

from .._native import native
from .numba_loops import Float32, LayerBatch


@native("contract", "reassoc", "nsz")
def layer_signals_into(figures: Float32, keys: int, zero: Any, out: Float32) -> None:
    """Sets out [6], the signals of one row in one layer, from the figures [H, 4] of its heads.

    ``keys`` is the number of keys that the row's query sees. The order is that of ``layer_signals``.
    """
    number = type(zero)
    heads = figures.shape[0]
    share = number(1) / number(heads)
    entropy = normalized = size = deviation = spread = zero
    for h in range(heads):
        entropy += figures[h, 0]
        normalized += figures[h, 1]
        size += figures[h, 2]
        deviation += figures[h, 3]
    entropy *= share
    deviation *= share
    for h in range(heads):
        apart = figures[h, 0] - entropy
        spread += apart * apart
    out[0] = entropy
    out[1] = normalized * share
    out[2] = spread * share
    out[3] = number(1) - deviation
    out[4] = number(2) * deviation / number(max(keys, 1))
    out[5] = size * share


@native()
def batch_signals_into(batch: LayerBatch, zero: Any, out: Float32) -> None:
    """Sets out [B, 6], the signals of every row of a layer, from the batch's figures."""
    for b in range(out.shape[0]):
        n = batch.lengths[b]
        n = batch.window if 0 < batch.window < n else n
        layer_signals_into(batch.figures[b], n, zero, out[b])


@native()
def mean_signals_into(by_layer: Float32, zero: Any, out: Float32) -> None:
    """Sets out [B, 6], the mean over layers of by_layer [L, B, 6]."""
    number = type(zero)
    layers, rows, count = by_layer.shape
    for b in range(rows):
        for i in range(count):
            total = zero
            for layer in range(layers):
                total += by_layer[layer, b, i]
            out[b, i] = total / number(layers)
