"""The blocks of quantised GGUF tensors as the native decoder keeps them: the same numbers, other places."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig

from entropick_kernels.decoder import GroupedWeight
from entropick_kernels.decoder.formats import INT4, INT4_CENTRED, INT8

from .header import read_header
from .tensors import plan

Bytes = npt.NDArray[np.uint8]
_SIZES: Final = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22}
"""types of tensors whose blocks are kept, and the bytes of a block"""


class GgufBlocks:
    """The tensors of a GGUF file whose blocks are kept, by the names that Hugging Face has for them."""

    def __init__(self, path: Path, config: PreTrainedConfig) -> None:
        """Reads the table of tensors. Raises ModelLoadError where the file is not what it was."""
        self._planned = {
            tensor.name: tensor
            for tensor in plan(read_header(path), config)
            if tensor.source.tensor_type.name in _SIZES
        }

    def weight(self, name: str) -> GroupedWeight | None:
        """Returns a matrix of the file's own numbers; None for a tensor whose blocks are not kept."""
        tensor = self._planned.get(name)
        if tensor is None:
            return None
        kept = kept_blocks(tensor.source.tensor_type.name, tensor.source.data)
        if tensor.heads and kept is not None:
            order = np.arange(tensor.shape[0]).reshape(tensor.heads, -1, 2).swapaxes(1, 2).reshape(-1)
            return kept.rows(torch.from_numpy(order.copy()))
        return kept


def kept_blocks(kind: str, data: Bytes) -> GroupedWeight | None:
    """Returns a matrix of the numbers and scales of a tensor's blocks; None for a type that is not kept.

    ``data`` [out, bytes of a row]. The matrix stands for the very numbers that gguf dequantises to.
    """
    if kind not in _SIZES:
        return None
    blocks = data.reshape(data.shape[0], -1, _SIZES[kind])
    scales = _halves(blocks[..., :2])
    if kind == "Q8_0":
        return GroupedWeight(INT8, _matrix(blocks[..., 2:].view(np.int8)), scales)
    if kind == "Q4_0":
        return GroupedWeight(INT4_CENTRED, _matrix(_nibbles(blocks[..., 2:])), scales)
    if kind == "Q4_1":
        return GroupedWeight(INT4, _matrix(_nibbles(blocks[..., 4:])), scales, _halves(blocks[..., 2:4]))
    fifth = np.unpackbits(np.ascontiguousarray(blocks[..., 2:6]), axis=-1, bitorder="little")
    numbers = (_nibbles(blocks[..., 6:]) | fifth << 4).astype(np.int8) - np.int8(16)
    return GroupedWeight(INT8, _matrix(numbers), scales)


def _nibbles(packed: Bytes) -> Bytes:
    """Returns the numbers of 4 bits of blocks [.., 16]: the lower halves, then the upper halves."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _halves(pairs: Bytes) -> torch.Tensor:
    """Returns the float16 numbers in bytes [out, groups, 2] as [out, groups]."""
    return torch.from_numpy(np.ascontiguousarray(pairs).view(np.float16)[..., 0])


def _matrix(numbers: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers.reshape(numbers.shape[0], -1)))
