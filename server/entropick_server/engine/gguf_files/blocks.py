"""The quantised tensors of a GGUF file whose blocks the native decoder keeps, by Hugging Face's names."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedConfig

from entropick_kernels.decoder import GroupedWeight

from .block_types import KEPT_TYPES, kept_blocks
from .header import read_header
from .tensors import plan

Table = dict[str, tuple[str, int, int, int, int]]
"""name -> type, place in the file, outputs, bytes of each, heads whose rows have to be reordered or 0"""
TABLE: Final = "gguf_blocks.json"
_log: Final = logging.getLogger(__name__)


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
        if kind in KEPT_TYPES:
            out, width = (int(n) for n in tensor.source.data.shape)
            table[tensor.name] = kind, int(tensor.source.data_offset), out, width, tensor.heads
    return table


def _kept_table(path: Path) -> Table | None:
    """Reads a table that was kept; None where there is none that can be read, or of other types."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["types"] != sorted(KEPT_TYPES):
            return None
        return {
            str(name): (str(kind), int(offset), int(out), int(width), int(heads))
            for name, (kind, offset, out, width, heads) in found["tensors"].items()
        }
    except (OSError, LookupError, ValueError, TypeError, AttributeError):
        return None


def _keep(path: Path, table: Table) -> None:
    """Writes a table beside its final name and renames it, so that no reader finds half of it."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}", delete=False
        ) as file:
            json.dump({"types": sorted(KEPT_TYPES), "tensors": table}, file)
        os.replace(file.name, path)
    except OSError as error:
        _log.warning("%s cannot be kept, the next start reads the file's header again: %s", path, error)
