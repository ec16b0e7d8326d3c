"""The blocks of quantised GGUF tensors as the native decoder keeps them: the same numbers, other places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from entropick_kernels.decoder import GroupedWeight
from entropick_kernels.decoder.formats import (
    INT4,
    INT4_CENTRED,
    INT4_WIDE,
    INT8,
    INT8_MINIMUM,
    INT8_SIXTEEN,
    INT8_WIDE,
)

Bytes = npt.NDArray[np.uint8]


def kept_blocks(kind: str, data: Bytes) -> GroupedWeight | None:
    """Returns a matrix of the numbers and scales of a tensor's blocks; None for a type that is not kept.

    ``data`` [out, bytes of a row]. The matrix stands for the very numbers that gguf dequantises to.
    """
    if kind not in KEPT_TYPES:
        return None
    size, read = KEPT_TYPES[kind]
    return read(data.reshape(data.shape[0], -1, size))


def _q8_0(blocks: Bytes) -> GroupedWeight:
    return GroupedWeight(INT8, _matrix(blocks[..., 2:].view(np.int8)), _halves(blocks[..., :2]))


def _q4_0(blocks: Bytes) -> GroupedWeight:
    return GroupedWeight(INT4_CENTRED, _matrix(_nibbles(blocks[..., 2:])), _halves(blocks[..., :2]))


def _q4_1(blocks: Bytes) -> GroupedWeight:
    scales, minima = _halves(blocks[..., :2]), _halves(blocks[..., 2:4])
    return GroupedWeight(INT4, _matrix(_nibbles(blocks[..., 4:])), scales, minima)


def _q5_0(blocks: Bytes) -> GroupedWeight:
    numbers = _five_bits(blocks[..., 2:]) - np.int8(16)
    return GroupedWeight(INT8, _matrix(numbers), _halves(blocks[..., :2]))


def _q5_1(blocks: Bytes) -> GroupedWeight:
    scales, minima = _halves(blocks[..., :2]), _halves(blocks[..., 2:4])
    return GroupedWeight(INT8_MINIMUM, _matrix(_five_bits(blocks[..., 4:])), scales, minima)


def _q4_k(blocks: Bytes) -> GroupedWeight:
    return GroupedWeight(INT4_WIDE, _matrix(_nibbles(_pairs(blocks[..., 16:]))), *_scales_of_k(blocks))


def _q5_k(blocks: Bytes) -> GroupedWeight:
    low = _nibbles(_pairs(blocks[..., 48:])).reshape(*blocks.shape[:2], 8, 32)
    # bit i of a byte belongs to the i-th group of 32 numbers
    high = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return GroupedWeight(INT8_WIDE, _matrix((low | high << 4).astype(np.int8)), *_scales_of_k(blocks))


def _q6_k(blocks: Bytes) -> GroupedWeight:
    # each half of a block has 4 groups of 32 numbers: their lower bits in 64 bytes, two upper ones in 32
    shape = (*blocks.shape[:2], 2)
    halves = blocks[..., :128].reshape(*shape, 1, 64)
    low = np.concatenate((halves & 15, halves >> 4), axis=-2).reshape(*shape, 4, 32)
    places = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks[..., 128:192].reshape(*shape, 1, 32) >> places & 3
    numbers = (low | high << 4).astype(np.int8) - np.int8(32)
    codes = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    scales = _floats(blocks[..., 208:210]) * codes
    return GroupedWeight(INT8_SIXTEEN, _matrix(numbers), _matrix(scales))


KEPT_TYPES: Final[dict[str, tuple[int, Callable[[Bytes], GroupedWeight]]]] = {
    "Q8_0": (34, _q8_0),
    "Q4_0": (18, _q4_0),
    "Q4_1": (20, _q4_1),
    "Q5_0": (22, _q5_0),
    "Q5_1": (24, _q5_1),
    "Q4_K": (144, _q4_k),
    "Q5_K": (176, _q5_k),
    "Q6_K": (210, _q6_k),
}
"""types of tensors whose blocks are kept -> bytes of a block, and the reader of blocks [out, n, bytes]"""


def _nibbles(packed: Bytes) -> Bytes:
    """Returns the numbers of 4 bits of blocks [.., n]: the lower halves, then the upper halves."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _pairs(packed: Bytes) -> Bytes:
    """Returns the bytes of super-blocks so that each two groups of 32 numbers have 32 bytes of their own."""
    return packed.reshape(*packed.shape[:2], 4, 32)


def _five_bits(packed: Bytes) -> npt.NDArray[np.int8]:
    """Returns the numbers 0 to 31 of blocks [.., 20]: 4 bytes of upper bits, then the lower four of each."""
    fifth = np.unpackbits(np.ascontiguousarray(packed[..., :4]), axis=-1, bitorder="little")
    return (_nibbles(packed[..., 4:]) | fifth << 4).astype(np.int8)


def _scales_of_k(blocks: Bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the scales and minima [out, groups] of super-blocks of Q4_K or Q5_K.

    A super-block begins with two float16, by which its 8 scales and 8 minima of 6 bits are multiplied; of
    these the 12 bytes behind hold the first four whole, the last four in a nibble and two upper bits.
    """
    codes = blocks[..., 4:16].reshape(*blocks.shape[:2], 3, 4)
    one, two, rest = codes[..., 0, :], codes[..., 1, :], codes[..., 2, :]
    scales = np.concatenate((one & 63, rest & 15 | one >> 6 << 4), axis=-1)
    minima = np.concatenate((two & 63, rest >> 4 | two >> 6 << 4), axis=-1)
    return (
        _matrix(_floats(blocks[..., :2]) * scales),
        _matrix(-_floats(blocks[..., 2:4]) * minima),
    )


def _halves(pairs: Bytes) -> torch.Tensor:
    """Returns the float16 numbers in bytes [out, groups, 2] as [out, groups]."""
    return torch.from_numpy(np.ascontiguousarray(pairs).view(np.float16)[..., 0])


def _floats(pairs: Bytes) -> npt.NDArray[np.float32]:
    """Returns the float16 numbers in bytes [out, blocks, 2] as float32 [out, blocks, 1]."""
    return np.ascontiguousarray(pairs).view(np.float16).astype(np.float32)


def _matrix(numbers: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers.reshape(numbers.shape[0], -1)))
