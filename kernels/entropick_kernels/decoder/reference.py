"""The decoder in float64, a whole text at once, written for reading.

The native decoder is checked against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._arrays import FloatArray, as_float64
from .weights import DecoderShape, GroupedWeight, LayerWeights, Weight, as_floats


def forward(
    shape: DecoderShape,
    layers: Sequence[LayerWeights],
    embed: Weight,
    norm: Tensor,
    head: Weight | None,
    cos: Tensor,
    sin: Tensor,
    ids: Sequence[int],
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Computes the logits [T, V] of a text, the last token's scores [L, H, T] and which keys it sees [L, T].

    Arguments as those of ``NativeDecoder``; ``head`` None: the embedding is the head too.
    """
    count = len(ids)
    x = as_float64(as_floats(embed))[list(ids)]
    of_head = as_float64(as_floats(embed if head is None else head))
    cosine, sine = as_float64(cos)[:count, None], as_float64(sin)[:count, None]
    at = np.arange(count)
    scores, seen = [], []
    for layer in layers:
        y = _rms(x, layer.norm_in, shape.eps)
        w_qkv = layer.w_qkv
        parts = [w_qkv] if isinstance(w_qkv, Tensor | GroupedWeight) else w_qkv
        joined = torch.cat([as_floats(part) for part in parts])
        qkv = _linear(y, joined, layer.b_qkv).reshape(count, -1, shape.width)
        q, k, v = np.split(qkv, (shape.heads, shape.heads + shape.kv_heads), axis=1)
        if layer.norm_q is not None:
            q = _rms(q, layer.norm_q, shape.eps)
        if layer.norm_k is not None:
            k = _rms(k, layer.norm_k, shape.eps)
        group = shape.heads // shape.kv_heads
        q, k = _rotate(q, cosine, sine), np.repeat(_rotate(k, cosine, sine), group, 1)
        s = np.einsum("qhd,khd->hqk", q, k) * layer.scale
        mask = at[None] <= at[:, None]
        if layer.window is not None:
            mask &= at[None] > at[:, None] - layer.window
        e = np.where(mask, np.exp(s - s.max(-1, keepdims=True, where=mask, initial=-math.inf)), 0.0)
        p = e / e.sum(-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", p, np.repeat(v, group, 1)).reshape(count, -1)
        x = x + _linear(out, layer.w_out, layer.b_out)
        y = _rms(x, layer.norm_post, shape.eps)
        gate, up = _linear(y, layer.w_gate, layer.b_gate), _linear(y, layer.w_up, layer.b_up)
        x = x + _linear(gate / (1.0 + np.exp(-gate)) * up, layer.w_down, layer.b_down)
        scores.append(s[:, -1])
        seen.append(mask[-1])
    return _rms(x, norm, shape.eps) @ of_head.T, np.stack(scores), np.stack(seen)


def _rms(x: FloatArray, weight: Tensor, eps: float) -> FloatArray:
    scaled: FloatArray = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * as_float64(weight)
    return scaled


def _linear(x: FloatArray, weight: Weight, bias: Tensor | None) -> FloatArray:
    out: FloatArray = x @ as_float64(as_floats(weight)).T
    return out if bias is None else out + as_float64(bias)


def _rotate(x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)
