"""The surprisals of a row's tokens by their position, for token costs. Knows nothing of vLLM.

They stay with the row, not beside the blocks of its keys: whichever blocks vLLM gives it, shares with another
row, takes away and fills again, the row's own numbers are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.attention_stats.costs import UNKNOWN

_ROOM: Final = 256
"""places that a row gets at a time"""


class RowSurprisals:
    """The surprisals of one row's tokens, bits; UNKNOWN where vLLM or the server has not told them."""

    def __init__(self, prompt: int, known: Sequence[float]) -> None:
        """Begins behind ``prompt`` tokens. ``known``: the surprisals of the first of them."""
        self._prompt = prompt
        self._length = prompt
        self._bits: npt.NDArray[np.float32] = np.full(prompt + _ROOM, UNKNOWN, np.float32)
        self._bits[: len(known)] = known
        self._told: Tensor | None = None

    @property
    def size(self) -> int:
        """Counts the numbers that are kept."""
        return len(self._bits)

    def tell_prompt(self, logprobs: Tensor) -> None:
        """Tells the log probabilities (nats) of the prompt's tokens behind the first, on any device.

        Where it is not one for each of them, none is known.
        """
        if logprobs.shape == (self._prompt - 1,):
            # copied when they are read: a step later they are mostly there, and nothing waits for the device
            self._told = logprobs

    def set(self, drawn: int, bits: float | None) -> None:
        """Sets the surprisal of the token behind ``drawn`` others of the row; None: it is not known."""
        self.cover(drawn + 1)
        known = bits is not None and math.isfinite(bits)
        self._bits[self._prompt + drawn] = bits if known else UNKNOWN

    def cover(self, drawn: int) -> None:
        """Covers ``drawn`` tokens behind the prompt, whose surprisals are not known unless they were set."""
        self._length = self._prompt + drawn
        if self._length > len(self._bits):
            more = np.full(self._length + _ROOM - len(self._bits), UNKNOWN, np.float32)
            self._bits = np.concatenate((self._bits, more))

    def read(self) -> npt.NDArray[np.float32]:
        """Reads the surprisals from position 0 on, as many as the row has tokens."""
        if self._told is not None:
            nats = self._told.float().cpu().numpy()
            # a rounded log probability may be above 0
            self._bits[1 : self._prompt] = np.maximum(0.0, nats / -math.log(2.0))
            self._told = None
        return self._bits[: self._length]


def surprisal_lines(rows: Sequence[RowSurprisals | None]) -> Tensor | None:
    """Lays out the surprisals of a step's rows, float32 [B, K] on the host.

    A row that wants none has none that are known. Returns None where no row wants any.
    """
    found = [None if row is None else row.read() for row in rows]
    longest = max((len(line) for line in found if line is not None), default=0)
    if not longest:
        return None
    lines = np.full((len(rows), longest), UNKNOWN, np.float32)
    for of_row, line in zip(lines, found, strict=True):
        if line is not None:
            of_row[: len(line)] = line
    return torch.from_numpy(lines)
