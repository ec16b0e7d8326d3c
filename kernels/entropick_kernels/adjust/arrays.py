"""The adjustments of a batch's logits as arrays on the host, and on a device where the logits are there."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]

WORD_BITS: Final = 32
"""Tokens of a word of a mask."""
LARGEST: Final = 1e38
"""The size that no penalised logit exceeds: float32 holds it and its double."""


class Masks(NamedTuple):
    """The tokens that M rows of a batch are allowed.

    ``rows`` int64 [M]: numbers of rows, each once. ``words`` int32 [M, W], C-contiguous: token t is allowed
    where bit t % 32 (the least significant is 0) of word t // 32 is set. Tokens behind the last word are not
    allowed; bits behind the vocabulary mean nothing.
    """

    rows: Integers
    words: Words

    def allowed(self, vocabulary: int) -> Integers:
        """Counts the allowed tokens of each of the rows, int64 [M], in a vocabulary of this many tokens."""
        words, rest = self.words[:, : -(-vocabulary // WORD_BITS)], vocabulary % WORD_BITS
        counts = _bits_set(words.view(np.uint32)).sum(1, dtype=np.int64)
        if rest and words.shape[1] * WORD_BITS > vocabulary:
            counts -= _bits_set(words[:, -1].view(np.uint32) >> np.uint32(rest)).astype(np.int64)
        return np.asarray(counts, np.int64)


class Entries(NamedTuple):
    """Some tokens of each of B rows with a number apiece.

    ``starts`` int64 [B + 1]: the tokens of row b are entries starts[b] to starts[b + 1]; ``ids`` int64 [E],
    each once in a row; ``values`` float64 [E].
    """

    starts: Integers
    ids: Integers
    values: Floats

    @property
    def rows(self) -> Integers:
        """Returns the number of the row of each entry, int64 [E]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def words_of(ids: npt.ArrayLike, vocabulary: int) -> Words:
    """Returns the words, int32 [W], of a mask that allows these token ids below ``vocabulary``."""
    allowed = np.zeros(-(-vocabulary // WORD_BITS) * WORD_BITS, dtype=np.bool_)
    allowed[np.asarray(ids, dtype=np.int64)] = True
    return np.packbits(allowed, bitorder="little").view("<i4").astype(np.int32)


def on_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Returns an array as a tensor on a device, from pinned memory where that is a GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    # a copy from pageable memory waits for what the GPU still has to do
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _bits_set(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Counts the bits of each word that are set."""
    counted: npt.NDArray[np.uint8] = np.bitwise_count(words)
    return counted
