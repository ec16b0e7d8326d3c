"""The seven attention signals of each layer, over the keys in its window, and their mean over layers: native.

A caller says by a zero of that type in which precision sums are made: float64 in the native decoder, float32
where a few rows are measured layer by layer, as torch sums those of many rows.
"""

from __future__ import annotations

from typing import Any

from .._native import native
from .numba_loops import Float32, Int32


@native("contract", "reassoc", "nsz")
def layer_signals_into(figures: Float32, keys: int, zero: Any, out: Float32) -> None:
    """Sets out [7], the signals of one row in one layer, from the figures [H, 5] of its heads.

    ``keys`` is the number of keys that the row's query sees. The order is that of ``layer_signals``.
    """
    number = type(zero)
    heads = figures.shape[0]
    share = number(1) / number(heads)
    entropy = normalized = size = deviation = previous = spread = zero
    for h in range(heads):
        entropy += figures[h, 0]
        normalized += figures[h, 1]
        size += figures[h, 2]
        deviation += figures[h, 3]
        previous += figures[h, 4]
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
    out[6] = previous * share


@native()
def mean_signals_into(by_layer: Float32, zero: Any, out: Float32) -> None:
    """Sets out [B, 7], the mean over layers of by_layer [L, B, 7]."""
    number = type(zero)
    layers, rows, count = by_layer.shape
    for b in range(rows):
        for i in range(count):
            total = zero
            for layer in range(layers):
                total += by_layer[layer, b, i]
            out[b, i] = total / number(layers)


@native()
def all_signals_into(
    figures: Float32, lengths: Int32, windows: Int32, zero: Any, keys: Any, by_layer: Float32, out: Float32
) -> None:
    """Sets by_layer [L, B, 7], its mean out [B, 7] and the valid keys int64 [L, B].

    ``figures`` [L, B, H, 5] are of layers with ``windows`` [L], of which 0 is none.
    """
    for layer in range(by_layer.shape[0]):
        for b in range(by_layer.shape[1]):
            n = lengths[b]
            n = windows[layer] if 0 < windows[layer] < n else n
            keys[layer, b] = n
            layer_signals_into(figures[layer, b], n, zero, by_layer[layer, b])
    mean_signals_into(by_layer, zero, out)
