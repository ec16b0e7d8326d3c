"""One layer's attention over a packed step and the paged cache, measured while it runs."""

from __future__ import annotations

import torch
from torch import Tensor

from entropick_kernels.attention_stats import (
    HeadStats,
    Kernels,
    decode_attention,
    prefill_attention,
    write_kv,
)
from entropick_kernels.decoder import DecoderStep


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
) -> tuple[Tensor, HeadStats | None]:
    """Writes a layer's keys and values into the cache and attends to it: q [T, H, D], k and v [T, Hk, D].

    ``kernels``: the kernels to use, None for the fastest. Returns the attention's output [T, H, D] and
    the statistics of the rows, None where there are no rows or the layer is not monitored."""
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
    stats = None
    if step.rows:
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
            kernels=kernels,
        )
        out.append(of_rows)
    return (out[0] if len(out) == 1 else torch.cat(out)), stats
