"""Decode attention on the CPU: allocates results and calls the native loops, on threads where that pays."""

from __future__ import annotations

import functools
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from .._native import native_worker
from .._threads import (
    RECORD,
    address,
    claim,
    record,
    record_type,
    run_shared,
    threads_for,
    torch_openmp,
)
from ._inputs import PagedQueries
from .costs import UNKNOWN, PositionCosts, TokenCosts
from .numba_costs import costs_into
from .numba_loops import attend, check, compare_heads, store
from .stats import FIGURES, HeadStats, named_figures

_SCRATCH_FLOATS: Final = 1 << 24
"""probabilities kept at a time (64 MiB): a larger batch goes through in parts"""


_ARGUMENTS: Final = record_type(
    # B, H, D, Hk, P, tokens of a block, N, K; the options; whether heads are compared, not attended with
    "rows heads width kv_heads blocks block columns span window attends compares "
    # addresses of the arrays
    "queries keys values block_table lengths probabilities out figures",
    "scale softcap",
)
"""of :func:`_worker`"""


def supports(q: Tensor, *blocks: Tensor) -> bool:
    """Returns whether the native loops serve these tensors: CPU, float32, contiguous blocks."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, *blocks)) and all(
        t.is_contiguous() for t in blocks
    )


def _worker(data: Any) -> None:
    """Runs one thread's share of :func:`attend`, or of :func:`compare_heads` where ``compares`` is set."""
    a = numba.carray(address(data[RECORD]), (1,), _ARGUMENTS)[0]
    blocks, per_head = (a.blocks, a.kv_heads, a.block, a.width), (a.rows, a.heads, a.width)
    lengths = numba.carray(address(a.lengths), (a.rows,), np.int32)
    probabilities = numba.carray(address(a.probabilities), (a.rows, a.heads, a.span), np.float32)
    figures = numba.carray(address(a.figures), (a.rows, a.heads, FIGURES), np.float32)
    unit = claim(data, 0)
    if a.compares:
        while unit < a.rows:
            compare_heads(probabilities, lengths, a.window, figures, unit, unit + 1)
            unit = claim(data, 0)
        return
    queries = numba.carray(address(a.queries), per_head, np.float32)
    keys = numba.carray(address(a.keys), blocks, np.float32)
    values = numba.carray(address(a.values), blocks, np.float32)
    block_table = numba.carray(address(a.block_table), (a.rows, a.columns), np.int32)
    out = numba.carray(address(a.out), per_head, np.float32)
    while unit < a.rows * a.kv_heads:
        attend(
            queries=queries,
            keys=keys,
            values=values,
            block_table=block_table,
            lengths=lengths,
            scale=np.float32(a.scale),
            softcap=np.float32(a.softcap),
            window=a.window,
            probabilities=probabilities,
            out=out,
            figures=figures,
            attends=a.attends != 0,
            transposed=False,
            begin=unit,
            end=unit + 1,
        )
        unit = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    """Returns :func:`_worker` as machine code; compiled at the first use, not at import."""
    return native_worker(_worker)


def decode_attention_numba(
    inputs: PagedQueries, want_stats: bool, costs: TokenCosts | None = None
) -> tuple[Tensor, HeadStats | None]:
    """Implements :func:`entropick_kernels.attention_stats.decode_attention`."""
    out = np.empty(inputs.q.shape, dtype=np.float32)
    stats = _run(inputs, out, want_stats, costs)
    return torch.from_numpy(out), stats if want_stats else None


def measure_attention_numba(inputs: PagedQueries, costs: PositionCosts | None = None) -> HeadStats:
    """Implements :func:`entropick_kernels.attention_stats.measure_attention`."""
    return _run(inputs, None, want_stats=True, costs=costs)


def _run(
    inputs: PagedQueries, out: Any, want_stats: bool, costs: TokenCosts | PositionCosts | None = None
) -> HeadStats:
    """Fills ``out`` where there are values. Returns the statistics, which mean nothing unless wanted."""
    rows, heads, width = inputs.q.shape
    count, kv_heads, block, _ = inputs.k_blocks.shape
    window, attends = inputs.window or 0, inputs.v_blocks is not None
    queries = _numpy(inputs.q.contiguous())
    keys, values = _numpy(inputs.blocks[0]), _numpy(inputs.blocks[-1])
    table = _numpy(inputs.block_table.to(torch.int32).contiguous())
    ends = _numpy(inputs.lengths.to(torch.int32).contiguous())
    columns = table.shape[1]
    span = min(columns * block, window) if window else columns * block
    at_once = min(rows, max(1, _SCRATCH_FLOATS // (heads * span)))
    probabilities = np.empty((at_once, heads, span), dtype=np.float32)
    figures = np.empty((rows, heads, FIGURES), dtype=np.float32)
    scale, softcap = np.float32(inputs.scale), np.float32(inputs.softcap or 0.0)
    threads = threads_for(check(table, ends, count, block, window, 1 if attends else 0) * heads * width)
    for lo in range(0, rows, at_once):
        part = slice(lo, lo + at_once)
        given = {
            "queries": queries[part], "keys": keys, "values": values, "block_table": table[part],
            "lengths": ends[part], "scale": scale, "softcap": softcap, "window": window,
            "probabilities": probabilities, "out": out[part] if attends else queries[part],
            "figures": figures[part], "attends": attends,
        }  # fmt: skip
        if threads == 1:
            some = ends[part].shape[0]
            attend(**given, transposed=False, begin=0, end=some * kv_heads)
            if want_stats:
                compare_heads(probabilities, ends[part], window, figures[part], 0, some)
            _measure_costs(costs, probabilities, table[part], ends[part], window, part)
            continue
        arguments = record(
            _ARGUMENTS, **given, rows=ends[part].shape[0], heads=heads, width=width, kv_heads=kv_heads,
            blocks=count, block=block, columns=columns, span=span,
        )  # fmt: skip
        run_shared(_compiled_worker(), arguments, threads)
        if want_stats:
            arguments["compares"] = 1
            run_shared(_compiled_worker(), arguments, threads)
        _measure_costs(costs, probabilities, table[part], ends[part], window, part)
    seen = inputs.lengths.long()
    return named_figures(torch.from_numpy(figures), seen.clamp(max=window) if window else seen)


def _measure_costs(
    costs: TokenCosts | PositionCosts | None,
    probabilities: Any,
    table: Any,
    ends: Any,
    window: int,
    part: slice,
) -> None:
    """Fills the cost figures of some rows from their probabilities, where they are asked for."""
    if costs is None:
        return
    figures = _numpy(costs.figures)[part]
    if isinstance(costs, PositionCosts):
        costs_by_position_into(probabilities, _numpy(costs.surprisals)[part], ends, window, figures)
    else:
        costs_into(probabilities, _numpy(costs.surprisals), table, ends, window, figures)


def costs_by_position_into(probabilities: Any, surprisals: Any, ends: Any, window: int, figures: Any) -> None:
    """Sets figures [B, H, 4] of rows whose surprisals [B, K] lie by position; else as :func:`costs_into`."""
    rows, columns = surprisals.shape
    missing = int(ends.max(initial=1)) - columns
    if missing > 0:
        surprisals = np.pad(surprisals, ((0, 0), (0, missing)), constant_values=UNKNOWN)
    # a row is one block of its own
    table = np.arange(rows, dtype=np.int32)[:, None]
    costs_into(probabilities, surprisals, table, ends, window, figures)


def _numpy(tensor: Tensor) -> Any:
    """Returns a tensor's memory as a numpy array, without its gradient."""
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def write_kv_numba(k: Tensor, v: Tensor, k_blocks: Tensor, v_blocks: Tensor, cache_index: Tensor) -> None:
    """Implements :func:`entropick_kernels.attention_stats.write_kv`."""
    where = cache_index.to(torch.int32).contiguous()
    arrays = (k.contiguous(), v.contiguous(), k_blocks, v_blocks, where)
    store(*(_numpy(tensor) for tensor in arrays))


def warmup_numba() -> None:
    """Compiles the loops, or loads them from disk."""
    if torch_openmp() is not None:
        _compiled_worker()
    blocks = torch.zeros(1, 1, 4, 8)
    one = torch.ones(1, dtype=torch.int32)
    write_kv_numba(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8), blocks, blocks.clone(), one)
    table = torch.zeros(1, 1, dtype=torch.int32)
    query = torch.zeros(1, 1, 8)
    inputs = PagedQueries(query, blocks, blocks, table, one, 1.0)
    decode_attention_numba(inputs, want_stats=True)
    measure_attention_numba(inputs._replace(v_blocks=None))
