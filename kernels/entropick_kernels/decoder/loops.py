"""What a decoder does between its products: native loops over float32 rows."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._exp2 import LOG2_E, exp2
from .._native import native
from ._tile import LANES

Float32 = npt.NDArray[np.float32]

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)


@native("contract", "reassoc", "nsz")
def rms_norm(x: Float32, weight: Float32, eps: float, out: Float32) -> None:
    """out = x * weight / sqrt(mean(x^2) + eps), over the length of ``weight``."""
    n = weight.shape[0]
    total = _ZERO
    for i in range(n):
        total += x[i] * x[i]
    scale = np.float32(1.0 / math.sqrt(total / n + eps))
    for i in range(n):
        out[i] = x[i] * scale * weight[i]


@native("contract")
def rotate(x: Float32, cos: Float32, sin: Float32, out: Float32) -> None:
    """Rotary embedding of a head x [D] by its position's cos, sin [D / 2]."""
    half = cos.shape[0]
    for i in range(half):
        a, b = x[i], x[half + i]
        out[i] = a * cos[i] - b * sin[i]
        out[half + i] = b * cos[i] + a * sin[i]


@native("contract")
def gate(pairs: Float32, out: Float32) -> None:
    """out = silu(gate) * up; pairs [2 n] holds 16 of the gate, 16 of up, in turns."""
    for panel in range(out.shape[0] // LANES):
        at = 2 * panel * LANES
        for i in range(LANES):
            g = pairs[at + i]
            e = exp2(np.float32(-abs(g) * LOG2_E))
            share = (_ONE if g >= _ZERO else e) / (_ONE + e)
            out[panel * LANES + i] = g * share * pairs[at + LANES + i]


@native("contract", "reassoc", "nsz")
def signals(figures: Float32, keys: int, out: Float32) -> None:
    """The six signals of a layer [6] from its heads' figures [H, 4]; as ``attention_stats.layer_signals``."""
    heads = figures.shape[0]
    entropy = normalized = size = deviation = 0.0
    for h in range(heads):
        entropy += figures[h, 0]
        normalized += figures[h, 1]
        size += figures[h, 2]
        deviation += figures[h, 3]
    entropy, normalized, size, deviation = (
        entropy / heads, normalized / heads, size / heads, deviation / heads,
    )  # fmt: skip
    spread = 0.0
    for h in range(heads):
        spread += (figures[h, 0] - entropy) ** 2
    out[0] = entropy
    out[1] = normalized
    out[2] = spread / heads
    out[3] = 1.0 - deviation
    out[4] = 2.0 * deviation / max(keys, 1)
    out[5] = size


@native()
def mean_signals(by_layer: Float32, out: Float32) -> None:
    """The mean over layers of by_layer [L, B, 6]: out [B, 6]."""
    layers, rows, count = by_layer.shape
    for b in range(rows):
        for i in range(count):
            total = 0.0
            for layer in range(layers):
                total += by_layer[layer, b, i]
            out[b, i] = total / layers


@native()
def check_places(ids: Any, positions: Any, slots: Any, vocab: int, longest: int, cells: int) -> None:
    """Raise IndexError where a token, a position or a slot is out of range."""
    for t in range(ids.shape[0]):
        if ids[t] < 0 or ids[t] >= vocab:
            raise IndexError("a token id is outside the vocabulary")
        if positions[t] < 0 or positions[t] >= longest:
            raise IndexError("a position is beyond the rotary table")
        if slots[t] < 0 or slots[t] >= cells:
            raise IndexError("a slot is outside the cache")
