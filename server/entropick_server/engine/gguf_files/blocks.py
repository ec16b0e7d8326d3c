"""The blocks of quantised GGUF tensors as the native decoder keeps them: the same numbers, other places."""

from __future__ import annotations

import json
import logging
import os
import tempfile
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
Table = dict[str, tuple[str, int, int, int, int]]
"""name -> type, place in the file, outputs, bytes of each, heads whose rows have to be reordered or 0"""
TABLE: Final = "gguf_blocks.json"
_log: Final = logging.getLogger(__name__)
_SIZES: Final = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22}
"""types of tensors whose blocks are kept, and the bytes of a block"""


class GgufBlocks:
    """The tensors of a GGUF file whose blocks are kept, by the names that Hugging Face has for them."""

    def __init__(self, path: Path, folder: Path, config: PreTrainedConfig) -> None:
        """Reads the table of tensors from the ``folder`` that the file was converted into.

        It is made there at the first time, since reading a file's header takes seconds. Raises ModelLoadError
        where the header cannot be read.
        """
        self._path = path
        self._table = _kept_table(folder / TABLE)
        if self._table is None:
            self._table = _table(path, config)
            _keep(folder / TABLE, self._table)

    def weight(self, name: str) -> GroupedWeight | None:
        """Returns a matrix of the file's own numbers; None for a tensor whose blocks are not kept."""
        found = (self._table or {}).get(name)
        if found is None:
            return None
        kind, offset, out, width, heads = found
        # a copy: torch warns of arrays that may not be written
        data = np.array(np.memmap(self._path, np.uint8, "r", offset, (out, width)))
        kept = kept_blocks(kind, data)
        if heads and kept is not None:
            order = np.arange(out).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
            return kept.rows(torch.from_numpy(order.copy()))
        return kept


def _table(path: Path, config: PreTrainedConfig) -> Table:
    """Lists the tensors whose blocks are kept."""
    table: Table = {}
    for tensor in plan(read_header(path), config):
        kind = tensor.source.tensor_type.name
        if kind in _SIZES:
            out, width = (int(n) for n in tensor.source.data.shape)
            table[tensor.name] = kind, int(tensor.source.data_offset), out, width, tensor.heads
    return table


def _kept_table(path: Path) -> Table | None:
    """Reads a table that was kept; None where there is none that can be read."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): (str(kind), int(offset), int(out), int(width), int(heads))
            for name, (kind, offset, out, width, heads) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _keep(path: Path, table: Table) -> None:
    """Writes a table beside its final name and renames it, so that no reader finds half of it."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}", delete=False
        ) as file:
            json.dump(table, file)
        os.replace(file.name, path)
    except OSError as error:
        _log.warning("%s cannot be kept, the next start reads the file's header again: %s", path, error)


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
