"""Statistics of several layers at once over transposed blocks, as native loops: a step of few rows.

An engine that attends itself, such as vLLM on the CPU, leaves the keys of a block as [D, block]. Where its
step has few rows, torch's operations cost more than their arithmetic; here a layer is a few native calls.
Needs numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .costs import COST_FIGURES
from .numba_impl import costs_by_position_into
from .numba_loops import check, measure_transposed_layer
from .numba_signals import all_signals_into
from .stats import FIGURES, LAYER_SIGNALS, HeadStats, named_figures

WORTH_THREADS: Final = 1 << 22
"""multiply-adds of a layer from which torch's threads and products are faster"""
_ZERO: Final = np.float32(0.0)


class TransposedLayer(NamedTuple):
    """One layer of a step: its newest queries, and the blocks that hold its keys."""

    queries: Tensor
    """[B, H, D]"""
    blocks: Tensor
    """[P, Hk, D or more, block], keys in the first D rows"""
    scale: float
    window: int | None
    softcap: float
    """0 for none"""


class LayerFigures(NamedTuple):
    """The figures of a batch of rows in several layers."""

    signals: Tensor
    """[B, 7], the mean over layers, in the order of ``layer_signals``"""
    by_layer: Tensor
    """[L, B, 7]"""
    heads: HeadStats
    """fields [L, B, H], ``keys`` [L, B]"""
    costs: Tensor | None = None
    """[L, B, H, 4], see ``token_costs``; None where no surprisals were given"""


def serves(queries: Tensor, blocks: Tensor) -> bool:
    """Returns whether the loops take these tensors: CPU, float32, contiguous blocks."""
    return queries.dtype == blocks.dtype == torch.float32 and not queries.is_cuda and blocks.is_contiguous()


def measure_transposed(
    layers: Sequence[TransposedLayer],
    block_table: Tensor,
    lengths: Tensor,
    surprisals: Tensor | None = None,
) -> LayerFigures:
    """Measures the attention of the newest queries in layers that share their blocks.

    ``block_table`` int [B, N] and ``lengths`` int [B] are as in ``measure_attention``, every length at least
    1. A row's figures depend on that row alone. ``surprisals`` as in ``PositionCosts``, where token costs are
    wanted. Raises IndexError where a block or a length is out of range.
    """
    rows, heads, _ = layers[0].queries.shape
    block = layers[0].blocks.shape[3]
    table = block_table.to(torch.int32).contiguous().numpy()
    ends = lengths.to(torch.int32).contiguous().numpy()
    windows = np.array([layer.window or 0 for layer in layers], dtype=np.int32)
    probabilities = np.empty((rows, heads, table.shape[1] * block), dtype=np.float32)
    figures = np.empty((len(layers), rows, heads, FIGURES), dtype=np.float32)
    by_layer = np.empty((len(layers), rows, LAYER_SIGNALS), dtype=np.float32)
    signals = np.empty((rows, LAYER_SIGNALS), dtype=np.float32)
    bits = None if surprisals is None else surprisals.numpy()
    costs = np.empty((len(layers), rows, heads, 0 if bits is None else COST_FIGURES), dtype=np.float32)
    for layer, of_layer, of_costs in zip(layers, figures, costs, strict=True):
        queries, blocks, window = layer.queries.contiguous().numpy(), layer.blocks.numpy(), layer.window or 0
        check(table, ends, blocks.shape[0], block, window)
        measure_transposed_layer(
            queries=queries, keys=blocks, block_table=table, lengths=ends, scale=np.float32(layer.scale),
            softcap=np.float32(layer.softcap), window=window, probabilities=probabilities, figures=of_layer,
        )  # fmt: skip
        if bits is not None:
            costs_by_position_into(probabilities, bits, ends, window, of_costs)
    keys = np.empty((len(layers), rows), dtype=np.int64)
    all_signals_into(figures, ends, windows, _ZERO, keys, by_layer, signals)
    stats = named_figures(torch.from_numpy(figures), torch.from_numpy(keys))
    return LayerFigures(
        torch.from_numpy(signals),
        torch.from_numpy(by_layer),
        stats,
        None if bits is None else torch.from_numpy(costs),
    )


def warmup() -> None:
    """Compiles the loops now, or loads them from disk, so that no request waits."""
    layer = TransposedLayer(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, 2), 1.0, None, 0.0)
    one = torch.ones(1, dtype=torch.int32)
    measure_transposed([layer], torch.zeros(1, 1), one, torch.zeros(1, 2))
