"""Attention over a paged KV cache in torch, on any device.

Layout of one layer: ``k_blocks, v_blocks`` [P, Hk, block, D]; a sequence is a row of block ids. Query head h
reads key-value head h // (H // Hk). Position i sees j with i - window < j <= i (Hugging Face's convention),
and softcap * tanh(score / softcap) is applied before the softmax (Gemma 2).
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ._inputs import PagedQueries
from .costs import PositionCosts, TokenCosts, of_positions, token_costs
from .stats import HeadShards, HeadStats, softmax_stats

_QUERIES_AT_ONCE: Final = 256


def write_kv_torch(k: Tensor, v: Tensor, k_blocks: Tensor, v_blocks: Tensor, cache_index: Tensor) -> None:
    """Implements :func:`entropick_kernels.attention_stats.write_kv`."""
    block = k_blocks.shape[2]
    ids, offsets = cache_index.long() // block, cache_index.long() % block
    k_blocks[ids, :, offsets] = k.to(k_blocks.dtype)
    v_blocks[ids, :, offsets] = v.to(v_blocks.dtype)


def _gather(blocks: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns blocks [P, Hk, block, D] of ids [.., N] as one run of keys [.., Hk, N * block, D]."""
    return blocks[ids].transpose(-3, -4).flatten(-3, -2).to(dtype)


def _capped(scores: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Scales and caps scores, in place."""
    scores.mul_(scale)
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def _scores(inputs: PagedQueries, block_table: Tensor) -> tuple[Tensor, Tensor]:
    """Computes every row's scores before the softmax, [B, H, N * block], and which keys its query sees."""
    rows, heads, width = inputs.q.shape
    kv_heads = inputs.k_blocks.shape[1]
    work = torch.float64 if inputs.q.dtype == torch.float64 else torch.float32
    keys = _gather(inputs.k_blocks, block_table, work)
    position = torch.arange(keys.shape[-2], device=keys.device)
    ends = inputs.lengths.unsqueeze(-1)
    valid = position < ends
    if inputs.window is not None:
        valid = valid & (position >= ends - inputs.window)
    grouped = inputs.q.to(work).reshape(rows, kv_heads, heads // kv_heads, width)
    scores = _capped(torch.matmul(grouped, keys.transpose(-1, -2)), inputs.scale, inputs.softcap)
    return scores.flatten(1, 2), valid


def decode_attention_torch(
    inputs: PagedQueries, want_stats: bool, costs: TokenCosts | None = None
) -> tuple[Tensor, HeadStats | None]:
    """Implements :func:`entropick_kernels.attention_stats.decode_attention`."""
    rows, heads, width = inputs.q.shape
    scores, valid = _scores(inputs, inputs.block_table)
    values, stats = _gather(inputs.blocks[-1], inputs.block_table, scores.dtype), None
    if want_stats:
        p, stats = softmax_stats(scores, valid)
    else:
        p = scores.masked_fill_(~valid.unsqueeze(1), -math.inf).softmax(-1)
    if costs is not None:
        of_keys = costs.surprisals[inputs.block_table].flatten(-2)
        costs.figures.copy_(token_costs(p, valid, of_keys))
    # a stale block may hold anything, and 0 * NaN is NaN
    values.masked_fill_(~valid[:, None, :, None], 0.0)
    out = torch.matmul(p.view(rows, values.shape[1], -1, p.shape[-1]), values)
    return out.reshape(rows, heads, width).to(inputs.q.dtype), stats


def measure_attention_torch(
    inputs: PagedQueries, shards: HeadShards | None, costs: PositionCosts | None = None
) -> HeadStats:
    """Implements :func:`entropick_kernels.attention_stats.measure_attention`."""
    block, table = inputs.k_blocks.shape[2], inputs.block_table
    first = torch.arange(table.shape[1], device=table.device) * block
    # a padded row's blocks may be anything
    table = table.masked_fill(first >= inputs.lengths.unsqueeze(-1), 0)
    scores, valid = _scores(inputs, table)
    p, stats = softmax_stats(scores, valid, shards)
    if costs is not None:
        costs.figures.copy_(token_costs(p, valid, of_positions(costs.surprisals, p.shape[-1])))
    return stats


def prefill_attention_torch(
    q: Tensor,
    k_blocks: Tensor,
    v_blocks: Tensor,
    block_row: Tensor,
    length: int,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    want_stats: bool,
) -> tuple[Tensor, HeadStats | None]:
    """Implements :func:`entropick_kernels.attention_stats.prefill_attention`."""
    n, heads, width = q.shape
    block, kv_heads = k_blocks.shape[2], k_blocks.shape[1]
    group = heads // kv_heads
    # blocks that no query of the chunk can see are not read
    start = 0 if window is None else max(0, length - n - window + 1) // block * block
    ids = block_row[start // block : -(-length // block)].long()
    keys = _gather(k_blocks, ids, q.dtype)[:, : length - start]
    values = _gather(v_blocks, ids, q.dtype)[:, : length - start]
    visible: Tensor | None = None
    if n > 1 and (n < length - start or window is not None):
        query_at = torch.arange(length - n, length, device=q.device).unsqueeze(-1)
        key_at = torch.arange(start, length, device=q.device)
        visible = key_at <= query_at
        if window is not None:
            visible = visible & (key_at > query_at - window)
    elif n == 1 and window is not None:
        visible = (torch.arange(start, length, device=q.device) >= length - window).unsqueeze(0)
    if softcap is None:
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),
            keys.repeat_interleave(group, dim=0).unsqueeze(0),
            values.repeat_interleave(group, dim=0).unsqueeze(0),
            attn_mask=visible,
            is_causal=visible is None and n > 1,
            scale=scale,
        )[0].transpose(0, 1)
    else:
        if visible is None and n > 1:
            visible = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        out = _eager(q, keys, values, visible, scale, softcap)
    if not want_stats:
        return out, None
    seen = keys if window is None else keys[:, max(0, keys.shape[1] - window) :]
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    newest = q[-1].to(work).reshape(kv_heads, group, width)
    scores = _capped(torch.matmul(newest, seen.to(work).transpose(-1, -2)), scale, softcap)
    return out, softmax_stats(scores.flatten(0, 1), None)[1]


def _eager(
    q: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """Attends with a softcap, [n, H, D], some queries at a time so that the scores stay small."""
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    kv_heads, width = keys.shape[0], q.shape[2]
    k, v = keys.to(work).transpose(-1, -2).unsqueeze(1), values.to(work).unsqueeze(1)
    parts = []
    for lo in range(0, q.shape[0], _QUERIES_AT_ONCE):
        part = q[lo : lo + _QUERIES_AT_ONCE].to(work).transpose(0, 1)
        part = part.reshape(kv_heads, -1, part.shape[1], width)
        scores = _capped(torch.matmul(part, k), scale, softcap)
        if visible is not None:
            scores.masked_fill_(~visible[lo : lo + _QUERIES_AT_ONCE], float("-inf"))
        parts.append(torch.matmul(scores.softmax(-1), v).flatten(0, 1).transpose(0, 1))
    return torch.cat(parts).reshape(-1, q.shape[1], width).to(q.dtype)
