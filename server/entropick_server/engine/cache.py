"""The paged KV cache: one pair of tensors a layer, [pages, key-value heads, page, head width]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
    """The tensors. Who owns which page is the :class:`~.pages.PagePool`'s business."""

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        self.shape = shape
        size = (shape.pages, shape.kv_heads, shape.page_size, shape.head_dim)
        self.keys = [torch.zeros(size, dtype=shape.dtype, device=device) for _ in range(shape.layers)]
        self.values = [torch.zeros(size, dtype=shape.dtype, device=device) for _ in range(shape.layers)]

    def clear(self, pages: Sequence[int]) -> None:
        """Zero some pages, for a sequence whose numbers went bad: its next owner must not meet a NaN."""
        index = torch.tensor(pages, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor.index_fill_(0, index, 0)
