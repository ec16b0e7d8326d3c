"""The paged KV cache: one tensor, [layers, keys and values, blocks, key-value heads, block, head width]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entropick_kernels.attention_stats.costs import UNKNOWN

from ..base import ModelLoadError


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The sizes of a model's cache; ``blocks`` counts the empty block 0 too."""

    layers: int
    kv_heads: int
    head_dim: int
    block_size: int
    blocks: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Counts the bytes of one block over all layers, keys and values."""
        width = torch.empty(0, dtype=self.dtype).element_size()
        return 2 * self.layers * self.kv_heads * self.head_dim * self.block_size * width


def blocks_that_fit(shape: CacheShape, cache_bytes: int, contexts: int | None, max_len: int) -> int:
    """Counts the blocks that ``cache_bytes`` allow beside the empty block 0.

    ``contexts``: without prefix caching, the number of full contexts that can run at once, for more blocks
    would never be used; None with it, for then every block is of use. Raises ModelLoadError where fewer than
    two tokens fit."""
    blocks = cache_bytes // shape.block_bytes - 1
    if contexts is not None:
        blocks = min(blocks, contexts * -(-max_len // shape.block_size))
    if blocks * shape.block_size < 2:
        raise ModelLoadError(
            f"kv_cache_bytes {cache_bytes} holds no two blocks of {shape.block_bytes} bytes: raise it"
        )
    return blocks


class KVCache:
    """The tensor, and ``keys`` and ``values``: a contiguous view [blocks, heads, block, width] for each
    layer. Beside them lie the keys' ``surprisals`` [blocks, block], bits, written for requests that ask for
    token costs alone.

    Which sequence uses which block is the :class:`~.block_pool.BlockPool`'s business.
    """

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        self.shape = shape
        size = (shape.layers, 2, shape.blocks, shape.kv_heads, shape.block_size, shape.head_dim)
        self._blocks = torch.zeros(size, dtype=shape.dtype, device=device)
        self.keys: list[Tensor] = list(self._blocks[:, 0])
        self.values: list[Tensor] = list(self._blocks[:, 1])
        self.surprisals: Tensor = torch.full((shape.blocks, shape.block_size), UNKNOWN, device=device)
        self._flat_surprisals = self.surprisals.view(-1).numpy() if device.type == "cpu" else None

    def write_surprisals(self, index: Sequence[int], bits: Sequence[float]) -> None:
        """Writes surprisals beside the keys at some cache indices."""
        if self._flat_surprisals is None:
            if index:
                self.surprisals.view(-1)[torch.tensor(index)] = torch.tensor(
                    bits, device=self.surprisals.device
                )
            return
        # numpy's small writes cost a fraction of torch's
        for at, value in zip(index, bits, strict=True):
            self._flat_surprisals[at] = value

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Copies a block into others, in all layers at once."""
        index = torch.tensor(targets, device=self._blocks.device)
        self._blocks[:, :, index] = self._blocks[:, :, source : source + 1]
        # one row over several of the same tensor: torch wants a copy
        self.surprisals[index] = self.surprisals[source].clone()

    def clear(self, blocks: Sequence[int]) -> None:
        """Zeroes blocks of a sequence whose numbers went bad: the next sequence must not meet a NaN."""
        self._blocks[:, :, torch.tensor(blocks, dtype=torch.int64, device=self._blocks.device)] = 0
