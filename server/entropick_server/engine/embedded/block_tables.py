"""The block tables of a step's rows, as the attention reads them; kept and patched from step to step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .sequence import Sequence


class BlockTables:
    """The block tables of the last step's rows, of which only the changes since then are written again."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device
        self._host = np.zeros((0, 1), dtype=np.int32)
        self._lists: list[list[int]] = []
        self._written: list[int] = []
        self._table = torch.zeros(0, 1, dtype=torch.int32, device=device)

    def of(self, rows: tuple[Sequence, ...]) -> Tensor:
        """Writes the block table of these rows: int32 [B, N], just wide enough for the row with the most
        blocks.
        """
        lists = [s.blocks for s in rows]
        changed = len(lists) != len(self._lists)
        if changed or any(a is not b for a, b in zip(lists, self._lists, strict=True)):
            # a row holds no more than its limit, so that the table never grows while the rows stay
            widest = max((-(-s.limit // self._block_size) for s in rows), default=1)
            self._host = np.zeros((len(rows), widest), dtype=np.int32)
            self._lists = lists
            self._written = [0] * len(rows)
            changed = True
        for i, blocks in enumerate(lists):
            have = self._written[i]
            if len(blocks) > have:
                self._host[i, have : len(blocks)] = blocks[have:]
                self._written[i] = len(blocks)
                changed = True
        if changed:
            width = max(self._written, default=1)
            self._table = torch.from_numpy(self._host[:, :width].copy()).to(self._device, non_blocking=True)
        return self._table
