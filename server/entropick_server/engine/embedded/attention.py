"""The attention function that transformers calls, for every architecture: paged, and measured while it runs.

One forward packs a whole step into a row [1, T]: first the tokens of prompts that give no logits, then the
*rows*, one token a sequence, whose attention is measured. :class:`AttentionContext` says which is which; it
travels through the model as a keyword argument, so there is no state outside the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from entropick_kernels.attention_stats import (
    HeadStats,
    Implementation,
    decode_attention,
    prefill_attention,
    write_kv,
)
from entropick_kernels.decoder import Decoded

from ..base import ModelLoadError

ATTENTION_NAME: Final = "entropick"


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """Tokens ``begin .. begin + count`` of the packed row: a piece of a prompt.

    ``pages`` [N]: the sequence's pages. ``length``: its keys including the piece.
    """

    begin: int
    count: int
    pages: Tensor
    length: int


@dataclass(slots=True)
class AttentionContext:
    """What a layer's attention needs beside its own q, k, v.

    ``slots`` [T]: where each token's key and value go. ``pieces`` cover the first T - B tokens, the rows are
    the last B: ``page_table`` [B, N], ``lengths`` [B] including the newest token. ``stats`` collects their
    statistics, layer by layer, where ``monitored`` says so; a decoder that makes the signals itself leaves
    everything in ``measured`` instead. ``implementation``: the kernels to use, None for the fastest.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    slots: Tensor
    pieces: Sequence[PromptPiece]
    page_table: Tensor
    lengths: Tensor
    rows: int
    monitored: frozenset[int]
    stats: list[HeadStats]
    measured: Decoded | None = None
    implementation: Implementation | None = None


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    entropick: AttentionContext,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed step: query [1, H, T, D], key and value [1, Hk, T, D] -> [1, T, H, D].

    Raises ModelLoadError for what the kernels do not know, a mask of the model's own or attention sinks; the
    warm-up meets it, so such a model never becomes ready.
    """
    if attention_mask is not None or unused.get("s_aux") is not None:
        raise ModelLoadError(
            "this architecture needs a mask of its own or attention sinks, which paged attention lacks here: "
            "--allow-unvalidated does not help, serve another model"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = q.shape[2] ** -0.5 if scaling is None else scaling
    return attend(layer, q, k, v, entropick, scale, sliding_window, softcap).unsqueeze(0), None


def attend(
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context: AttentionContext,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One layer's attention of a packed step: q [T, H, D], k and v [T, Hk, D] -> [T, H, D]."""
    keys, values = context.keys[layer], context.values[layer]
    write_kv(k, v, keys, values, context.slots)
    out: list[Tensor] = []
    for piece in context.pieces:
        of_piece, _ = prefill_attention(
            q[piece.begin : piece.begin + piece.count],
            keys,
            values,
            piece.pages,
            piece.length,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=False,
        )
        out.append(of_piece)
    if context.rows:
        of_rows, stats = decode_attention(
            q[-context.rows :],
            keys,
            values,
            context.page_table,
            context.lengths,
            scale=scale,
            window=window,
            softcap=softcap,
            want_stats=layer in context.monitored,
            implementation=context.implementation,
        )
        out.append(of_rows)
        if stats is not None:
            context.stats.append(stats)
    return out[0] if len(out) == 1 else torch.cat(out)


def register() -> None:
    """Make the function known to transformers; a model asks for it by name.

    No mask function is registered with it: transformers then builds no mask, which the pages make needless.
    """
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
