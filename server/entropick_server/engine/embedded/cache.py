"""The paged KV cache: one tensor, [layers, keys and values, pages, key-value heads, page, head width]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What the cache of a model looks like; ``pages`` counts the empty page 0 too."""

    layers: int
    kv_heads: int
    head_dim: int
    page_size: int
    pages: int
    dtype: torch.dtype

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        width = torch.empty(0, dtype=self.dtype).element_size()
        return 2 * self.layers * self.kv_heads * self.head_dim * self.page_size * width


def pages_that_fit(page_bytes: int, cache_bytes: int, max_num_seqs: int, max_len: int, page_size: int) -> int:
    """Usable pages: what the bytes allow, and no more than ``max_num_seqs`` full contexts can fill."""
    needed = max_num_seqs * -(-max_len // page_size)
    return min(cache_bytes // page_bytes - 1, needed)


class KVCache:
    """The tensor, and ``keys`` and ``values``: a contiguous view [pages, heads, page, width] for each layer.

    Who owns which page is the :class:`~.pages.PagePool`'s business.
    """

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        self.shape = shape
        size = (shape.layers, 2, shape.pages, shape.kv_heads, shape.page_size, shape.head_dim)
        self._pages = torch.zeros(size, dtype=shape.dtype, device=device)
        self.keys: list[Tensor] = list(self._pages[:, 0])
        self.values: list[Tensor] = list(self._pages[:, 1])

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Copy a page into others, in all layers at once."""
        index = torch.tensor(targets, device=self._pages.device)
        self._pages[:, :, index] = self._pages[:, :, source : source + 1]

    def clear(self, pages: Sequence[int]) -> None:
        """Zero some pages, for a sequence whose numbers went bad: its next owner must not meet a NaN."""
        self._pages[:, :, torch.tensor(pages, dtype=torch.int64, device=self._pages.device)] = 0
