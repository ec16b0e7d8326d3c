"""Attention over a paged KV cache that measures the newest query's attention while it runs.

Layout of one layer: ``k_blocks, v_blocks`` [P, Hk, block, D]; ``block_table`` int [B, N] block ids, entries
beyond a row's blocks being arbitrary valid ids; ``lengths`` int [B], the number of keys INCLUDING the newest.

``reference``: the statistics in float64. ``stats``: figures by head, signals by layer; ``costs``: token
costs. ``torch_impl``: any device. ``numba_impl``: the CPU; its loops are in ``numba_loops``,
``numba_signals`` and ``numba_costs``. ``transposed``:
several layers at once on the CPU, whose blocks are transposed. ``triton_impl`` and ``triton_kernels``: GPUs.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from .._triton import chosen
from ..native_code import usable, wanted
from ._inputs import PagedQueries, check_blocks
from .costs import PositionCosts, TokenCosts
from .stats import HeadShards, HeadStats, check_shards, head_stats, layer_signals
from .torch_impl import (
    decode_attention_torch,
    measure_attention_torch,
    prefill_attention_torch,
    write_kv_torch,
)

try:
    from . import numba_impl as _loops
except ImportError:  # numba is not installed: torch serves everything
    _loops = None  # type: ignore[assignment]

__all__ = [
    "HeadShards",
    "HeadStats",
    "Kernels",
    "PositionCosts",
    "TokenCosts",
    "decode_attention",
    "head_stats",
    "layer_signals",
    "measure_attention",
    "prefill_attention",
    "warmup",
    "write_kv",
]

Kernels = Literal["torch", "numba", "triton"]


@overload
def decode_attention(
    q: Tensor, k_blocks: Tensor, v_blocks: Tensor, block_table: Tensor, lengths: Tensor, *, scale: float,
    window: int | None = ..., softcap: float | None = ..., want_stats: Literal[True] = ...,
    costs: TokenCosts | None = ..., kernels: Kernels | None = ...,
) -> tuple[Tensor, HeadStats]: ...  # fmt: skip


@overload
def decode_attention(
    q: Tensor, k_blocks: Tensor, v_blocks: Tensor, block_table: Tensor, lengths: Tensor, *, scale: float,
    window: int | None = ..., softcap: float | None = ..., want_stats: bool,
    costs: TokenCosts | None = ..., kernels: Kernels | None = ...,
) -> tuple[Tensor, HeadStats | None]: ...  # fmt: skip


def decode_attention(
    q: Tensor,
    k_blocks: Tensor,
    v_blocks: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    want_stats: bool = True,
    costs: TokenCosts | None = None,
    kernels: Kernels | None = None,
) -> tuple[Tensor, HeadStats | None]:
    """Attends with every row's newest query q [B, H, D] over its cached keys, and measures the attention.

    Returns the outputs [B, H, D] and the statistics, None without ``want_stats``; these may be views of one
    buffer. The newest key and value are already in the cache (:func:`write_kv`); every length is at least 1.
    Query head h reads key-value head h // (H // Hk); ``window``: the last so many keys; ``softcap``: tanh cap
    before the softmax. Statistics are of the scores that enter the softmax, over the valid keys only:
    padding, block order and the other rows do not change them. ``costs``: fills in the token costs of the
    heads (:func:`.costs.token_costs`) where they are wanted.

    ``kernels``: "triton" (CUDA; float32, bfloat16, float16), "numba" (native loops; CPU, float32,
    contiguous blocks), "torch" (anything), or None for the fastest that serves these tensors. Raises
    ValueError on shapes that do not fit and where the forced implementation cannot serve the tensors,
    IndexError on the CPU where a block or a length is out of range.
    """
    inputs = PagedQueries(q, k_blocks, v_blocks, block_table, lengths, scale, window, softcap)
    inputs.check()
    if costs is not None:
        costs.check(q, k_blocks)
    triton = _triton_kernels(kernels, q, *inputs.blocks)
    if triton is not None:
        measured: tuple[Tensor, HeadStats | None] = triton.decode_attention_triton(
            inputs, want="all" if want_stats else "none", costs=costs
        )
        return measured
    native = wanted(kernels) and _loops is not None and _loops.supports(q, *inputs.blocks)
    if kernels == "numba" and not native:
        raise ValueError("the native loops need numba, float32 tensors on the CPU and contiguous blocks")
    return (_loops.decode_attention_numba if native else decode_attention_torch)(inputs, want_stats, costs)


def measure_attention(
    q: Tensor,
    k_blocks: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    shards: HeadShards | None = None,
    costs: PositionCosts | None = None,
    kernels: Kernels | None = None,
) -> HeadStats:
    """Measures the statistics of :func:`decode_attention` from the keys alone, for a caller that attends.

    Arguments and figures as there. ``k_blocks`` [P, Hk, block, D] may have any strides where D is contiguous
    (a view of blocks that hold keys and values side by side). A row may have length 0, as a padded row of a
    CUDA graph's batch: its figures are 0, ``previous`` is NaN, and its query and block ids may be anything.
    On CUDA nothing synchronises; the scratch is 2 bytes for each row, head and key of the block table's
    capacity, and tiles of it without keys cost a program each: give it no more columns than the longest row
    needs.

    With ``shards`` q [B, H, D] holds this worker's heads, k_blocks its key-value heads, and a head's
    deviation is from the mean head of all workers. All else is by head: a caller that wants all heads gathers
    them. ``costs``: fills in the token costs of the heads that are here where they are wanted; a row of
    length 0 has none, NaN.

    ``kernels``: "triton" (as there), "numba" (native loops; CPU, float32, contiguous blocks, without
    shards), "torch" (anything), or None for the fastest that serves. Raises as :func:`decode_attention`, and
    ValueError where ``shards`` counts fewer heads than q has or its ``add`` returns another shape or type.
    """
    inputs = PagedQueries(q, k_blocks, None, block_table, lengths, scale, window, softcap)
    inputs.check()
    check_shards(shards, q.shape[1])
    if costs is not None:
        costs.check(q)
    triton = _triton_kernels(kernels, q, k_blocks)
    if triton is not None:
        measured: HeadStats = triton.measure_attention_triton(inputs, shards, costs)
        return measured
    native = wanted(kernels) and _loops is not None and shards is None
    if native and _loops.supports(q, k_blocks):
        return _loops.measure_attention_numba(inputs, costs)
    if kernels == "numba":
        raise ValueError(
            "the native loops need numba, float32 tensors on the CPU, contiguous blocks and no shards"
        )
    return measure_attention_torch(inputs, shards, costs)


def _triton_kernels(kernels: str | None, q: Tensor, *blocks: Tensor) -> Any | None:
    """Returns the Triton kernels where they are to serve these tensors, else None.

    Raises ValueError where they are demanded and cannot.
    """
    module = chosen(__name__, kernels, q, *blocks)
    if module is not None and not module.supports(q, *blocks):
        if kernels == "triton":
            raise ValueError("the Triton kernels need float32, bfloat16 or float16 and contiguous heads")
        return None
    return module


def prefill_attention(
    q: Tensor,
    k_blocks: Tensor,
    v_blocks: Tensor,
    block_row: Tensor,
    length: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    want_stats: bool = True,
    kernels: Literal["torch", "triton"] | None = None,
) -> tuple[Tensor, HeadStats | None]:
    """Attends causally with a sequence's last n positions q [n, H, D]: returns (out [n, H, D], statistics).

    ``block_row`` [N] holds the sequence's blocks, ``length`` its keys including the chunk. Statistics ([H])
    are of the last query alone; ``kernels`` says who measures them (see :func:`decode_attention`),
    torch attends. Raises ValueError on shapes that do not fit or where 1 <= n <= length fails."""
    check_blocks(q, (k_blocks, v_blocks), window, softcap)
    block = k_blocks.shape[2]
    if not 1 <= q.shape[0] <= length <= block_row.shape[0] * block:
        raise ValueError(
            f"{q.shape[0]} queries, {length} keys, {block_row.shape[0]} blocks of {block} do not fit"
        )
    triton = _triton_kernels(kernels, q, k_blocks, v_blocks) if want_stats else None
    out, stats = prefill_attention_torch(
        q, k_blocks, v_blocks, block_row, length,
        scale=scale, window=window, softcap=softcap, want_stats=want_stats and triton is None,
    )  # fmt: skip
    if triton is not None:
        table = block_row[None, : -(-length // block)]
        ends = torch.full((1,), length, dtype=torch.int32, device=q.device)
        newest = PagedQueries(q[-1:], k_blocks, v_blocks, table, ends, scale, window, softcap)
        of_last = triton.decode_attention_triton(newest)[1]
        stats = HeadStats(*(figure[0] for figure in of_last))
    return out, stats


def write_kv(k: Tensor, v: Tensor, k_blocks: Tensor, v_blocks: Tensor, cache_index: Tensor) -> None:
    """Stores keys and values k, v [T, Hk, D] in the cache, in place.

    ``cache_index`` int [T] says where: block id * block size + offset.

    Raises ValueError on shapes that do not fit, IndexError on the CPU where an index is out of range.
    """
    tail = (k_blocks.shape[1], k_blocks.shape[3])
    if k.dim() != 3 or k.shape != v.shape or k.shape[1:] != tail or cache_index.shape != k.shape[:1]:
        raise ValueError(
            f"expected k, v [T, {tail[0]}, {tail[1]}] and cache_index [T], got {tuple(k.shape)}, "
            f"{tuple(v.shape)}, {tuple(cache_index.shape)}"
        )
    native = usable() and _loops is not None and _loops.supports(k, k_blocks, v_blocks)
    native = native and v.dtype == k.dtype
    (_loops.write_kv_numba if native else write_kv_torch)(k, v, k_blocks, v_blocks, cache_index)


def warmup() -> None:
    """Compiles the native loops now, or loads them from disk, so that no request waits."""
    if _loops is not None:
        _loops.warmup_numba()
