"""Cosines of the same matrix in different layers: as stored, and without regard to the order of neurons.

The flat cosine compares entries, so it misses a copy whose neurons (or heads' dimensions) are in another
order. The cosine of the traceless W^T W, on the side of the residual stream, does not change under such an
order, nor under a rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

BUDGET_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosines:
    """The cosines between the layers' matrices of one kind, [L][L], and the nulls' deviations."""

    flat: tuple[tuple[float, ...], ...]
    flat_null: float
    """1 / sqrt(number of entries), for independent Gaussian weights."""
    gram: tuple[tuple[float, ...], ...]
    """Of W^T W - (trace / d) I; empty where it was left out."""
    gram_null: float
    """1 / sqrt(d (d + 1) / 2 - 1), for independent random symmetric matrices without trace."""
    flat_extreme: tuple[int, int] | None = None
    """The pair of layers with the largest |flat cosine|."""
    gram_extreme: tuple[int, int] | None = None
    """The pair of layers with the largest cosine of W^T W."""


def layer_cosines(
    read: Callable[[int], torch.Tensor],
    layers: int,
    residual_side: int,
    budget: int = BUDGET_BYTES,
    with_gram: bool = True,
) -> LayerCosines:
    """Computes both cosines over all pairs of layers, with a bounded number of matrices in memory.

    ``read`` gives a layer's matrix, its entries in any dtype; it is called several times for a layer where
    ``budget`` bytes do not hold all. ``residual_side`` is the dimension of the residual stream: 1 for
    projections [out, d], 0 for matrices [d, in] that write it. ``with_gram`` False leaves the cosines of
    W^T W out. Raises ValueError for fewer than two layers.
    """
    if layers < 2:
        raise ValueError("cosines between layers need two layers")
    first = _oriented(read(0), residual_side)
    entries, width = first.numel(), first.shape[1]
    flat = torch.zeros(layers, layers, dtype=torch.float64)
    step = max(1, min(first.shape[0], budget // (4 * layers * width)))
    for start in range(0, first.shape[0], step):
        rows = torch.stack(
            [
                _oriented(read(layer), residual_side)[start : start + step].flatten().float()
                for layer in range(layers)
            ]
        )
        flat += (rows @ rows.T).double()
    shaped = _gram_cosines(read, layers, residual_side, budget) if with_gram else None
    alike = _normalised(flat)
    return LayerCosines(
        flat=tuple(tuple(row) for row in alike.tolist()),
        flat_null=1.0 / math.sqrt(entries),
        gram=() if shaped is None else tuple(tuple(row) for row in shaped.tolist()),
        gram_null=1.0 / math.sqrt(max(1.0, width * (width + 1) / 2.0 - 1.0)),
        flat_extreme=_extreme(alike.abs()),
        gram_extreme=None if shaped is None else _extreme(shaped),
    )


def _gram_cosines(
    read: Callable[[int], torch.Tensor], layers: int, residual_side: int, budget: int
) -> torch.Tensor:
    """Returns the cosines of the traceless W^T W of all pairs of layers, from blocks of their columns."""
    width = read(0).shape[residual_side]
    gram = torch.zeros(layers, layers, dtype=torch.float64)
    traces = torch.zeros(layers, dtype=torch.float64)
    step = max(1, min(width, budget // (4 * layers * width)))
    for start in range(0, width, step):
        parts = []
        for layer in range(layers):
            w = _oriented(read(layer), residual_side).float()
            part = w.T @ w[:, start : start + step]
            traces[layer] += float(part[start : start + step].diagonal().double().sum())
            parts.append(part.flatten())
        columns = torch.stack(parts)
        gram += (columns @ columns.T).double()
    gram -= torch.outer(traces, traces) / width
    return _normalised(gram)


def _oriented(matrix: torch.Tensor, residual_side: int) -> torch.Tensor:
    return matrix if residual_side == 1 else matrix.T


def _normalised(products: torch.Tensor) -> torch.Tensor:
    size = products.diagonal().clamp(min=0.0).sqrt()
    scale = torch.outer(size, size)
    return torch.where(scale > 0.0, products / scale, 0.0)


def _extreme(cosines: torch.Tensor) -> tuple[int, int] | None:
    upper = cosines.triu(1) + torch.full_like(cosines, -torch.inf).tril(0)
    place = int(upper.argmax())
    return divmod(place, cosines.shape[0])
