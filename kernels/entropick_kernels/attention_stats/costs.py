"""The token cost of a query: the mean surprisal of the keys that a head looks at, in torch.

It is one more column of values, a number a key that all layers and heads share, and it lies beside the blocks
of keys. A key whose surprisal is not known has a negative number or NaN there.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

COST_FIGURES: Final = 4
"""figures of a head: token cost (bits), relative token cost, sink mass, known mass"""
LEAST_KNOWN: Final = 0.5
"""attention that keys with a known surprisal must have together for a cost to be told"""
UNKNOWN: Final = -1.0
"""the surprisal of a key whose surprisal is not known"""


class TokenCosts(NamedTuple):
    """The surprisals of cached keys, and the place for the costs that a call of attention fills in."""

    surprisals: Tensor
    """float32 [P, block], bits: -log2 P(token | tokens before); below 0 or NaN where it is not known"""
    figures: Tensor
    """float32 [B, H, 4], contiguous: token cost, relative token cost, sink mass, known mass; see
    :func:`token_costs`"""

    def check(self, q: Tensor, k_blocks: Tensor) -> None:
        """Raises ValueError on shapes and types that do not fit the queries [B, H, D] and their blocks."""
        shapes = (k_blocks.shape[0], k_blocks.shape[2]), (*q.shape[:2], COST_FIGURES)
        for name, tensor, shape in zip(self._fields, self, shapes, strict=True):
            if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(
                    f"costs.{name} must be contiguous float32 {list(shape)}, got {tensor.dtype} "
                    f"{list(tensor.shape)}"
                )


class PositionCosts(NamedTuple):
    """The surprisals of each row's tokens by position, and the place for the costs that a call fills in.

    For a caller whose cache has no place beside the keys.
    """

    surprisals: Tensor
    """float32 [B, K], contiguous, bits: of the row's tokens from position 0 on; below 0 or NaN where it is
    not known, which is true of all tokens behind the last column"""
    figures: Tensor
    """as in :class:`TokenCosts`"""

    def check(self, q: Tensor) -> None:
        """Raises ValueError on shapes and types that do not fit the queries [B, H, D]."""
        given = tuple(self.surprisals.shape)
        if len(given) != 2 or given[0] != q.shape[0] or self.surprisals.dtype != torch.float32:
            raise ValueError(
                f"costs.surprisals must be float32 [{q.shape[0]}, K], got {self.surprisals.dtype} "
                f"{list(given)}"
            )
        shape = (*q.shape[:2], COST_FIGURES)
        for name, tensor, wanted in zip(self._fields, self, (given, shape), strict=True):
            if tuple(tensor.shape) != wanted or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(
                    f"costs.{name} must be contiguous float32 {list(wanted)}, got {tensor.dtype} "
                    f"{list(tensor.shape)}"
                )


def of_positions(surprisals: Tensor, span: int) -> Tensor:
    """Returns the surprisals [B, span] of so many positions, from the first columns of some [B, K]."""
    missing = span - surprisals.shape[1]
    return surprisals[:, :span] if missing <= 0 else F.pad(surprisals, (0, missing), value=UNKNOWN)


def token_costs(p: Tensor, valid: Tensor, surprisals: Tensor) -> Tensor:
    """Computes the cost figures of attention p [.., B, H, K] over the text's keys from position 0 on.

    Returns [.., B, H, 4]. ``valid`` bool [B, K]: keys that the query sees; ``surprisals`` [B, K] as in
    :class:`TokenCosts`. Token cost (bits): sum of p x surprisal over the known keys, over their mass, NaN
    where that is below 0.5.
    Relative: the cost over the mean surprisal of the known visible keys, NaN where that is 0. Sink mass:
    attention to position 0, NaN where the query does not see it. Formulas: ``reference.py``.
    """
    known = valid & (surprisals >= 0)
    bits = surprisals.masked_fill(~known, 0.0).to(p.dtype)
    columns = torch.stack((bits, known.to(p.dtype)), dim=-1)
    total, mass = torch.matmul(p, columns).unbind(-1)
    cost = torch.where(mass >= LEAST_KNOWN, total / mass, math.nan)
    mean = (bits.sum(-1) / known.sum(-1)).unsqueeze(-1)
    relative = torch.where(mean > 0, cost / mean, math.nan)
    sink = torch.where(valid[:, :1], p[..., 0], math.nan)
    return torch.stack((cost, relative, sink, mass), dim=-1)
