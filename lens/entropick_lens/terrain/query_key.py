"""Symmetry and sign balance of a head's query-key product M = W_K^T W_Q.

M [d, d] has rank D at most and is never formed: with B = [W_K^T W_Q^T] = Q R, the symmetric part
(M + M^T) / 2 has the eigenvalues of R J R^T / 2, J swapping the two halves, a matrix of 2D rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

_ZERO: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryKeySymmetry:
    """The symmetry of a head's product, and the signs of its symmetric part."""

    deviation: float | None = None
    """|M - M^T| / |M|: 0 symmetric, sqrt(2) = 1.414 for random weights, 2 antisymmetric."""
    positive: int
    negative: int
    """Eigenvalues of (M + M^T) / 2 above and below 0. Their counts are equal, D each, for every head whose
    query and key rows are independent (Sylvester): a count of one half says nothing about the head."""
    balance: float | None = None
    """tr M / sum |eigenvalues|: 0 for random weights, 1 for W_Q = W_K, -1 for W_Q = -W_K."""
    eigenvalues: tuple[float, ...]
    """Those of (M + M^T) / 2 that are not 0, in descending order."""


def query_key_symmetry(query: torch.Tensor, key: torch.Tensor) -> QueryKeySymmetry:
    """Measures one head: ``query`` and ``key`` are its rows [D, d] of the projections, in float64.

    Raises ValueError where the shapes differ.
    """
    if query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} differ in shape")
    q, k = query.double(), key.double()
    dim = q.shape[0]
    _, upper = torch.linalg.qr(torch.cat((k, q)).T, mode="r")
    swapped = torch.cat((upper[:, dim:], upper[:, :dim]), 1)
    values = torch.linalg.eigvalsh(swapped @ upper.T / 2.0).flip(0)
    size = float(values.abs().max()) if values.numel() else 0.0
    kept = values[values.abs() > _ZERO * size]
    crossed = q @ k.T
    square = float(((k @ k.T) * (q @ q.T)).sum())
    nuclear = float(kept.abs().sum())
    turned = float((crossed * crossed.T).sum())
    return QueryKeySymmetry(
        deviation=math.sqrt(max(0.0, 2.0 - 2.0 * turned / square)) if square > 0.0 else None,
        positive=int((kept > 0.0).sum()),
        negative=int((kept < 0.0).sum()),
        balance=float((q * k).sum()) / nuclear if nuclear > 0.0 else None,
        eigenvalues=tuple(kept.tolist()),
    )


def layer_symmetries(
    query: torch.Tensor, key: torch.Tensor, heads: int, kv_heads: int
) -> tuple[QueryKeySymmetry, ...]:
    """Measures the heads of a layer from ``query`` [H * D, d] and ``key`` [Hk * D, d].

    Head h has the key head h // (H / Hk). Raises ValueError where the rows do not divide into heads.
    """
    if heads % kv_heads or query.shape[0] % heads or key.shape[0] % kv_heads:
        raise ValueError(
            f"{query.shape[0]} query rows and {key.shape[0]} key rows do not divide into {heads} and "
            f"{kv_heads} heads"
        )
    queries, keys = query.chunk(heads), key.chunk(kv_heads)
    return tuple(query_key_symmetry(queries[h], keys[h // (heads // kv_heads)]) for h in range(heads))
