"""How far back the heads look: attention by distance, without the first position.

Under a rotary embedding there is no bias of positions to read from the weights; the mean attention by
distance over a text stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

EDGES: Final = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)
"""The first distance of each bin; the last bin has no end."""
_LOCAL: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReach:
    """The attention of a head by distance, averaged over the queries of all texts."""

    layer: int
    head: int
    first_share: float
    """The share of attention that falls on position 0, over queries behind it."""
    mean_distance: float | None = None
    """The mean distance, weighted by the attention that does not fall on position 0."""
    peak: int | None = None
    """The first distance of the bin with the largest mean attention of a pair; None without a pair."""
    local_share: float | None = None
    """The share of the attention that does not fall on position 0 which falls on the nearest two tokens
    and on the token itself."""
    by_distance: tuple[float | None, ...]
    """The mean attention of a pair, by bin; None where no pair has that distance."""


class ReachSums:
    """Sums of a layer's attention by head and bin of distance."""

    def __init__(self, heads: int) -> None:
        """Begins with no attention for ``heads`` heads."""
        self._mass = torch.zeros(heads, len(EDGES), dtype=torch.float64)
        self._pairs = torch.zeros(len(EDGES), dtype=torch.float64)
        self._first = torch.zeros(heads, dtype=torch.float64)
        self._distance = torch.zeros(heads, dtype=torch.float64)
        self._queries = 0

    def add(self, attention: torch.Tensor, start: int) -> None:
        """Adds attention [H, Q, K] of queries at positions from ``start`` on to keys from 0 on."""
        _, queries, keys = attention.shape
        query = torch.arange(start, start + queries)
        distance = query.unsqueeze(1) - torch.arange(keys).unsqueeze(0)
        seen = (distance >= 0) & (torch.arange(keys) > 0).unsqueeze(0)
        flat = attention.reshape(attention.shape[0], -1).double()
        kept = torch.nonzero(seen.flatten()).squeeze(1)
        far = distance.flatten()[kept]
        bins = torch.bucketize(far, torch.tensor(EDGES), right=True) - 1
        self._mass.index_add_(1, bins, flat[:, kept])
        self._pairs += torch.bincount(bins, minlength=len(EDGES)).double()
        self._distance += flat[:, kept] @ far.double()
        behind = query > 0
        self._first += attention[:, behind, 0].double().sum(1)
        self._queries += int(behind.sum())

    def reach(self, layer: int) -> Iterable[HeadReach]:
        """Yields the reach of each head of the layer ``layer``."""
        for head in range(self._mass.shape[0]):
            mass = self._mass[head]
            total = float(mass.sum())
            means = mass / self._pairs
            known = self._pairs > 0
            peak = int(torch.where(known, means, -1.0).argmax()) if bool(known.any()) else None
            yield HeadReach(
                layer=layer,
                head=head,
                first_share=float(self._first[head]) / self._queries if self._queries else 0.0,
                mean_distance=float(self._distance[head]) / total if total > 0.0 else None,
                peak=None if peak is None else EDGES[peak],
                local_share=float(mass[: EDGES.index(_LOCAL) + 1].sum()) / total if total > 0.0 else None,
                by_distance=tuple(
                    float(mean) if there else None for mean, there in zip(means, known, strict=True)
                ),
            )
