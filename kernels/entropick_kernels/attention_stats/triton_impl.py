"""Decode attention over a paged cache in Triton, and its statistics: the launches.

Two launches give the output and the figures of a head, two more its distance to the mean head:

``attend``     (row, key-value head) x split of 512 keys: the keys and values of a split are read once for the
               whole group of query heads; leaves the split's unnormalised output and its running sums.
``merge``      (row, head): adds a row's splits up.
``deviate``    (row, tile of keys): the attention of every head from the weights that ``attend`` kept, against
               the mean head.
``total``      (row, head): adds a row's tiles up.

Where other workers hold heads too, ``sum_heads`` (row, tile of keys) comes before ``deviate``: the sum over
the heads that are here, which the workers add up. Measuring alone is the same launches without the values.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
import triton
from torch import Tensor

from .._triton import interpreting
from ._inputs import PagedQueries
from .costs import PositionCosts, TokenCosts
from .stats import FIGURES, HeadShards, HeadStats, added, named_figures
from .triton_kernels import attend, deviate, merge, sum_heads, total

SPLIT: Final = 512
"""keys of a program of ``attend``"""
TILE: Final = 32
"""keys of one step of it, and of a program of ``deviate``"""
_HEAD_TILE: Final = 64

Want = Literal["all", "heads", "none"]


def supports(*tensors: Tensor) -> bool:
    """Returns whether the kernels serve these tensors: float32, bfloat16 or float16, heads contiguous."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return all(t.dtype in dtypes and t.stride(-1) == 1 for t in tensors)


def decode_attention_triton(
    inputs: PagedQueries,
    *,
    want: Want = "all",
    costs: TokenCosts | None = None,
    split: int = SPLIT,
    tile: int = TILE,
) -> tuple[Tensor, HeadStats | None]:
    """Implements :func:`entropick_kernels.attention_stats.decode_attention`.

    ``want``: "all" statistics, all but the deviation (then NaN: "heads"), or "none". ``costs``: where the
    token costs are wanted. ``split``, ``tile``:
    powers of two, at least 16; a row's numbers depend on them. Never synchronises: shapes alone say which
    programs are launched. Tensors as :func:`supports` demands.
    """
    out = torch.empty(inputs.q.shape, dtype=inputs.q.dtype, device=inputs.q.device)
    figures, keys = _launch(inputs, out, want, None, costs, split, tile)
    return out, None if want == "none" else named_figures(figures, keys)


def measure_attention_triton(
    inputs: PagedQueries,
    shards: HeadShards | None = None,
    costs: PositionCosts | None = None,
    *,
    split: int = SPLIT,
    tile: int = TILE,
) -> HeadStats:
    """Implements :func:`entropick_kernels.attention_stats.measure_attention`.

    ``split`` and ``tile`` are as in :func:`decode_attention_triton`. ``shards`` adds up a float32 [B, K], K
    the capacity of the block table, or of the window, in whole splits; beyond a row's own tiles it holds
    anything, and its sums there are not read.
    """
    return named_figures(*_launch(inputs, None, "all", shards, costs, split, tile))


def _launch(
    inputs: PagedQueries,
    out: Tensor | None,
    want: Want,
    shards: HeadShards | None,
    costs: TokenCosts | PositionCosts | None,
    split: int,
    tile: int,
) -> tuple[Tensor, Tensor]:
    """Fills ``out`` where there are values. Returns figures and keys, which mean nothing unless wanted."""
    q, k_blocks, v_blocks, block_table, lengths, scale, window, softcap = inputs
    rows, heads, width = q.shape
    _, kv_heads, block, _ = k_blocks.shape
    capacity = block_table.shape[1] * block
    splits = triton.cdiv(capacity, split)
    if window is not None:
        splits = min(splits, triton.cdiv(window - 1, split) + 1)
    group, width_pad = heads // kv_heads, max(16, triton.next_power_of_2(width))
    stats, keep = want != "none", want == "all"

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=q.device)

    # the kernels take a row's block ids, and the lengths, to lie side by side
    table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    lengths = lengths.contiguous()
    sums = scratch(rows, heads, splits, 4)
    # what a launch does not touch stands in where it has no tensor
    values = k_blocks if v_blocks is None else v_blocks
    partial = sums if out is None else scratch(rows, heads, splits, width)
    figures, softmax = (scratch(rows, heads, n) if stats else sums for n in (FIGURES, 2))
    keys = scratch(rows, dtype=torch.int64) if stats else lengths
    tiles = splits * (split // tile)
    # 16 bits a weight, in a type that every tool knows
    weights = scratch(rows, heads, splits * split, dtype=torch.float16) if keep else sums
    tops, distances = (scratch(rows, heads, tiles) if keep else sums for _ in range(2))
    of_keys, of_heads = (sums, sums) if costs is None else costs
    cost_sums = sums if costs is None else scratch(rows, heads, splits, 4)
    by_position = isinstance(costs, PositionCosts)
    reach = min(window or capacity, capacity)
    common = {"SPLIT": split, "TILE": tile}
    with torch.cuda.device_of(q):
        attend[(rows * kv_heads, splits)](
            q, k_blocks, values, table, lengths, partial, sums, weights, tops, figures,
            of_keys, cost_sums, of_heads, scale, softcap or 1.0, reach, capacity, splits,
            table.stride(0), *q.stride()[:2], *k_blocks.stride()[:3], *values.stride()[:3],
            of_keys.shape[1],
            KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), WIDTH=width,
            WIDTH_PAD=width_pad, BLOCK=block, CAPPED=softcap is not None, VALUES=out is not None, STATS=stats,
            KEEP=keep, COSTED=costs is not None, BY_POSITION=by_position,
            UPCAST=interpreting() or len({q.dtype, k_blocks.dtype, values.dtype}) > 1,
            **common, num_warps=8 if width_pad * q.element_size() > 512 else 4, num_stages=3,
        )  # fmt: skip
        merge[(rows * heads,)](
            partial, sums, lengths, sums if out is None else out, figures, softmax, keys,
            cost_sums, of_heads, reach, capacity, splits,
            HEADS=heads, WIDTH=width, WIDTH_PAD=width_pad, SPLIT=split, VALUES=out is not None, STATS=stats,
            COSTED=costs is not None, num_warps=4,
        )  # fmt: skip
        if keep:
            kept = (weights, tops, softmax, lengths)
            head_tile = min(_HEAD_TILE, triton.next_power_of_2(heads))
            attended = sums
            if shards is not None:
                attended = scratch(rows, splits * split)
                sum_heads[(rows, tiles)](
                    *kept, attended, reach, capacity, splits,
                    HEADS=heads, HEAD_TILE=head_tile, **common, num_warps=4,
                )  # fmt: skip
                attended = added(attended, shards)
            deviate[(rows, tiles)](
                *kept, attended, distances, reach, capacity, splits,
                HEADS=heads, ALL_HEADS=heads if shards is None else shards.heads, GIVEN=shards is not None,
                HEAD_TILE=head_tile, **common, num_warps=4,
            )  # fmt: skip
            total[(rows * heads,)](
                distances, lengths, figures, reach, capacity, splits, HEADS=heads, **common, num_warps=4
            )
    return figures, keys
