"""The paged KV cache: one tensor, [layers, keys and values, pages, key-value heads, page, head width]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import ModelLoadError


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The sizes of a model's cache; ``pages`` counts the empty page 0 too."""

    layers: int
    kv_heads: int
    head_dim: int
    page_size: int
    pages: int
    dtype: torch.dtype

    @property
    def page_bytes(self) -> int:
        """Counts the bytes of one page over all layers, keys and values."""
        width = torch.empty(0, dtype=self.dtype).element_size()
        return 2 * self.layers * self.kv_heads * self.head_dim * self.page_size * width


def pages_that_fit(shape: CacheShape, cache_bytes: int, contexts: int | None, max_len: int) -> int:
    """Counts the pages that ``cache_bytes`` allow beside the empty page 0.

    ``contexts``: without prefix caching, the number of full contexts that can run at once, for more pages
    would never be used; None with it, for then every page is of use. Raises ModelLoadError where fewer than
    two tokens fit."""
    pages = cache_bytes // shape.page_bytes - 1
    if contexts is not None:
        pages = min(pages, contexts * -(-max_len // shape.page_size))
    if pages * shape.page_size < 2:
        raise ModelLoadError(
            f"kv_cache_bytes {cache_bytes} holds no two pages of {shape.page_bytes} bytes: raise it"
        )
    return pages


class KVCache:
    """The tensor, and ``keys`` and ``values``: a contiguous view [pages, heads, page, width] for each layer.

    Which sequence uses which page is the :class:`~.pages.PagePool`'s business.
    """

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        self.shape = shape
        size = (shape.layers, 2, shape.pages, shape.kv_heads, shape.page_size, shape.head_dim)
        self._pages = torch.zeros(size, dtype=shape.dtype, device=device)
        self.keys: list[Tensor] = list(self._pages[:, 0])
        self.values: list[Tensor] = list(self._pages[:, 1])

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Copies a page into others, in all layers at once."""
        index = torch.tensor(targets, device=self._pages.device)
        self._pages[:, :, index] = self._pages[:, :, source : source + 1]

    def clear(self, pages: Sequence[int]) -> None:
        """Zeroes pages of a sequence whose numbers went bad: the next sequence must not meet a NaN."""
        self._pages[:, :, torch.tensor(pages, dtype=torch.int64, device=self._pages.device)] = 0
