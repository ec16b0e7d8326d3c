"""One layer's attention over a packed step and the paged cache, measured while it runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from entropick_kernels.attention_stats import (
    HeadStats,
    Kernels,
    TokenCosts,
    decode_attention,
    prefill_attention,
    write_kv,
)
from entropick_kernels.attention_stats.costs import COST_FIGURES
from entropick_kernels.decoder import DecoderStep


class LayerFigures(NamedTuple):
    """The figures of a step's rows in one monitored layer: statistics, and token costs where wanted."""

    stats: HeadStats
    costs: Tensor | None
    """[B, H, 4]"""


def attend(
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    step: DecoderStep,
    scale: float,
    window: int | None,
    softcap: float | None,
    kernels: Kernels | None,
) -> tuple[Tensor, LayerFigures | None]:
    """Writes a layer's keys and values into the cache and attends to it: q [T, H, D], k and v [T, Hk, D].

    ``kernels``: the kernels to use, None for the fastest. Returns the attention's output [T, H, D] and
    the figures of the rows, None where there are no rows or the layer is not monitored."""
    keys, values = step.keys[layer], step.values[layer]
    write_kv(k, v, keys, values, step.cache_index)
    out: list[Tensor] = []
    begin = 0
    for chunk in step.chunks:
        of_chunk, _ = prefill_attention(
            q[begin : begin + chunk.count],
            keys,
            values,
            chunk.blocks,
            chunk.length,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=False,
        )
        out.append(of_chunk)
        begin += chunk.count
    figures = None
    if step.rows:
        costs = None
        if step.surprisals is not None and layer in step.monitored:
            room = torch.empty(step.rows, q.shape[1], COST_FIGURES, device=q.device)
            costs = TokenCosts(step.surprisals, room)
        of_rows, stats = decode_attention(
            q[-step.rows :],
            keys,
            values,
            step.block_table,
            step.lengths,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=layer in step.monitored,
            costs=costs,
            kernels=kernels,
        )
        out.append(of_rows)
        if stats is not None:
            figures = LayerFigures(stats, None if costs is None else costs.figures)
    return (out[0] if len(out) == 1 else torch.cat(out)), figures
