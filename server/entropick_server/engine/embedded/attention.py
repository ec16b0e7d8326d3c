"""One layer's attention over a packed step and the paged cache, measured while it runs, in torch or by
kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, decode_attention, prefill_attention, write_kv

from .forward import StepInput


def attend(
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    step: StepInput,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, HeadStats | None]:
    """Writes a layer's keys and values into the cache and attends to it: q [T, H, D], k and v [T, Hk, D].

    Returns the attention's output [T, H, D] and the statistics of the rows, None where there are no rows or
    the layer is not monitored.
    """
    keys, values = step.keys[layer], step.values[layer]
    write_kv(k, v, keys, values, step.slots)
    out: list[Tensor] = []
    for chunk in step.chunks:
        of_chunk, _ = prefill_attention(
            q[chunk.begin : chunk.begin + chunk.count],
            keys,
            values,
            chunk.pages,
            chunk.length,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=False,
        )
        out.append(of_chunk)
    stats = None
    if step.rows:
        of_rows, stats = decode_attention(
            q[-step.rows :],
            keys,
            values,
            step.page_table,
            step.lengths,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=layer in step.monitored,
            implementation=step.implementation,
        )
        out.append(of_rows)
    return (out[0] if len(out) == 1 else torch.cat(out)), stats
