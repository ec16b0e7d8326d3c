"""The newest queries of a step and the keys they saw, measured once for all monitored layers and rows.

A backend's forward keeps the queries only; the statistics are made when the sampler runs, after the forward,
where every row goes through each operation together. Knows nothing of vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from entropick_kernels.attention_stats import (
    HeadShards,
    HeadStats,
    Kernels,
    PositionCosts,
    layer_signals,
    measure_attention,
)
from entropick_kernels.attention_stats.costs import COST_FIGURES, of_positions, token_costs
from entropick_kernels.attention_stats.stats import softmax_stats

try:
    from entropick_kernels.attention_stats import transposed as _native
except ImportError:  # numba is not installed: torch serves everything
    _native = None  # type: ignore[assignment]


SCRATCH: Final = 1 << 27
"""weights, of a row, head and key, that are measured in one launch: 2 bytes each beside a vLLM that has sized
its cache without them"""


class Captured(NamedTuple):
    """The newest queries of one layer in one step, and the keys that they saw.

    ``queries`` [B, H, D]: of each row's newest token. ``keys``: the cache, [P, Hk, block, D or more] with
    keys in the first D columns, or, ``transposed``, [P, Hk, D or more, block] with keys in the first D rows.
    ``blocks`` int [B, N], ``lengths`` int [B]: as in ``decode_attention``; ``longest``: the largest length or
    more. ``window``: the last so many keys, None for all; ``softcap`` 0: none."""

    queries: Tensor
    keys: Tensor
    blocks: Tensor
    lengths: Tensor
    longest: int
    scale: float
    window: int | None
    softcap: float
    transposed: bool = True


class TensorParallelGroup(NamedTuple):
    """The workers among which a layer's heads are spread; all of them call at once.

    ``all_reduce``: sums a tensor over them. ``all_gather``: puts their tensors side by side along the last
    axis, by rank.
    """

    size: int
    all_reduce: Callable[[Tensor], Tensor]
    all_gather: Callable[[Tensor], Tensor]


class Attention(NamedTuple):
    """The attention figures of a step: ``signals`` [B, 7], the mean over layers of ``by_layer`` [L, B, 7].

    ``heads``: fields [L, B, H]; ``costs`` [L, B, H, 4]: see ``token_costs``, None where no row wants them.
    """

    signals: Tensor
    by_layer: Tensor
    heads: HeadStats
    costs: Tensor | None = None


def scores(layer: Captured, rows: int) -> Tensor:
    """Computes the scores of a transposed layer, float32 [B, H, N * block].

    Scores of keys beyond a row's length mean nothing.
    """
    kv_heads, block, width = layer.keys.shape[1], layer.keys.shape[3], layer.queries.shape[2]
    blocks = layer.blocks[:rows, : -(-layer.longest // block)].long()
    keys = layer.keys[:, :, :width][blocks].float()  # [B, N, Hk, D, block]
    grouped = layer.queries[:rows].float().view(rows, 1, kv_heads, -1, width)
    found = torch.matmul(grouped, keys).mul_(layer.scale)  # [B, N, Hk, g, block]
    if layer.softcap:
        found.div_(layer.softcap).tanh_().mul_(layer.softcap)
    return found.permute(0, 2, 3, 1, 4).reshape(rows, -1, blocks.shape[1] * block)


def valid_keys(layer: Captured, rows: int, span: int) -> Tensor:
    """Marks the keys that the newest queries see, bool [B, span]."""
    position = torch.arange(span, device=layer.lengths.device)
    ends = layer.lengths[:rows].unsqueeze(1)
    seen = position < ends
    return seen if layer.window is None else seen & (position >= ends - layer.window)


def measure(
    layers: Sequence[Captured],
    rows: int,
    group: TensorParallelGroup | None = None,
    kernels: Kernels | None = None,
    surprisals: Tensor | None = None,
) -> Attention:
    """Measures ``rows`` rows in every layer; with ``group`` the heads of all its workers.

    ``kernels``: see :func:`measure_attention`. ``surprisals`` float32 [rows, K] on the layers' device, as in
    ``PositionCosts``: where a row wants token costs.
    """
    if group is not None or not layers[0].transposed:
        heads, costs = _by_kernel(layers, rows, group, kernels, surprisals)
    elif _native is not None and _small(layers, rows):
        return _natively(layers, rows, surprisals)
    else:
        heads, costs = _together(layers, rows, surprisals)
    by_layer = layer_signals(heads)
    return Attention(by_layer.mean(0), by_layer, heads, costs)


def _by_kernel(
    layers: Sequence[Captured],
    rows: int,
    group: TensorParallelGroup | None,
    kernels: Kernels | None,
    surprisals: Tensor | None,
) -> tuple[HeadStats, Tensor | None]:
    """Layer by layer, every row in one launch while they fit into SCRATCH, blocks read in place."""
    found = []
    costs = None
    if surprisals is not None:
        costs = surprisals.new_empty(len(layers), rows, layers[0].queries.shape[1], COST_FIGURES)
    for number, layer in enumerate(layers):
        heads, width = layer.queries.shape[1:]
        keys = layer.keys[:, :, :width].transpose(2, 3) if layer.transposed else layer.keys[..., :width]
        parts = [
            measure_attention(
                layer.queries[part],
                keys,
                layer.blocks[part, : -(-layer.longest // keys.shape[2])],
                layer.lengths[part],
                scale=layer.scale,
                window=layer.window,
                softcap=layer.softcap or None,
                shards=None if group is None else HeadShards(heads * group.size, group.all_reduce),
                costs=None
                if costs is None or surprisals is None
                else PositionCosts(surprisals[part], costs[number, part]),
                # native loops know no group
                kernels=None if kernels == "numba" else kernels,
            )
            for part in _parts(layer, rows)
        ]
        found.append(parts[0] if len(parts) == 1 else HeadStats(*map(torch.cat, zip(*parts, strict=True))))
    stats = HeadStats(*(torch.stack(figures) for figures in zip(*found, strict=True)))
    if group is None:
        return stats, costs
    mine = torch.stack(stats[:-1])
    if costs is not None:
        mine = torch.cat((mine, costs.permute(3, 0, 1, 2)))
    every = group.all_gather(mine)
    entropy, normalized, size, deviation, previous = every[: len(stats) - 1].unbind(0)
    if costs is not None:
        costs = every[len(stats) - 1 :].permute(1, 2, 3, 0)
    return HeadStats(entropy, normalized, size, deviation, previous, stats.keys), costs


def _parts(layer: Captured, rows: int) -> Iterator[slice]:
    """The rows in parts whose weights fit into SCRATCH; the same in every worker."""
    span = layer.longest if layer.window is None else min(layer.window, layer.longest)
    most = max(1, SCRATCH // (layer.queries.shape[1] * max(span, 1)))
    for first in range(0, rows, most):
        yield slice(first, min(first + most, rows))


def _together(
    layers: Sequence[Captured], rows: int, surprisals: Tensor | None
) -> tuple[HeadStats, Tensor | None]:
    """All layers in one operation, where they are alike."""
    found = [scores(layer, rows) for layer in layers]
    spans = {(layer.window, s.shape) for layer, s in zip(layers, found, strict=True)}
    if len(spans) == 1:
        valid = valid_keys(layers[0], rows, found[0].shape[-1])
        p, heads = softmax_stats(torch.stack(found), valid.unsqueeze(0))
        return heads._replace(keys=heads.keys.expand(len(found), rows)), _costs(p, valid, surprisals)
    one, costs = [], []
    for layer, of_layer in zip(layers, found, strict=True):
        valid = valid_keys(layer, rows, of_layer.shape[-1])
        p, heads = softmax_stats(of_layer, valid)
        one.append(heads)
        costs.append(_costs(p, valid, surprisals))
    told = [of_layer for of_layer in costs if of_layer is not None]
    stats = HeadStats(*(torch.stack(figures) for figures in zip(*one, strict=True)))
    return stats, torch.stack(told) if told else None


def _costs(p: Tensor, valid: Tensor, surprisals: Tensor | None) -> Tensor | None:
    """The token costs of attention p [.., B, H, K], where surprisals are known."""
    if surprisals is None:
        return None
    return token_costs(p, valid, of_positions(surprisals, p.shape[-1]))


def warm_up() -> None:
    """Compiles the native loops, or loads them from numba's cache."""
    if _native is not None:
        _native.warmup()


def _small(layers: Sequence[Captured], rows: int) -> bool:
    """Whether native loops serve these layers together, and are faster than torch's threads."""
    first = layers[0]
    heads, width = first.queries.shape[1:]
    return rows * first.longest * heads * width < _native.WORTH_THREADS and all(
        _native.serves(layer.queries, layer.keys)
        and layer.blocks is first.blocks
        and layer.queries.shape == first.queries.shape
        and layer.keys.shape[1:] == first.keys.shape[1:]
        for layer in layers
    )


def _natively(layers: Sequence[Captured], rows: int, surprisals: Tensor | None) -> Attention:
    first = layers[0]
    columns = -(-first.longest // first.keys.shape[3])
    return Attention(
        *_native.measure_transposed(
            [_native.TransposedLayer(c.queries[:rows], c.keys, c.scale, c.window, c.softcap) for c in layers],
            first.blocks[:rows, :columns],
            first.lengths[:rows],
            surprisals,
        )
    )
