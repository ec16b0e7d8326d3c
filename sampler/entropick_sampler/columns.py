"""The inputs of a sampling step that are new in every step: a line of whole numbers for each row."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

NOTHING: Final = -1
"""The token id that stands for no token."""
NEVER: Final = 1 << 30
"""Tokens since a clarifying text where there was none: no cooldown is as long."""


class StepRow(NamedTuple):
    """The new inputs of one row.

    ``position``: the index in the reply of the token that is drawn now. ``forced``: a token to emit instead
    of the drawn token. ``clarify``: the first token of the clarifying text as it would stand here, NOTHING
    where the text cannot be inserted. ``clarify_used`` and ``since_clarify`` are the policy memory of the
    row's sequence: the number of clarifying texts so far, and of tokens since the last text began (None:
    there was no text). ``tokens`` and ``surprisal`` belong to it too: the number of tokens so far whose
    surprisal is known, and its sum (bits). ``repeated``: the newest tokens of the reply that stood in it
    before (:mod:`.repetition`).

    The caller must keep the memory: after a step whose line says that a text was inserted, ``clarify_used``
    grows by 1 and ``since_clarify`` is 0; after any other step ``since_clarify`` grows by 1. After every step
    whose token the sequence takes, ``tokens`` grows by 1 and ``surprisal`` by the token's.
    """

    position: int
    forced: int = NOTHING
    clarify: int = NOTHING
    repeated: int = 0
    clarify_used: int = 0
    since_clarify: int | None = None
    tokens: int = 0
    surprisal: float = 0.0


_SURPRISAL: Final = StepRow._fields.index("surprisal")
_pack: Final = struct.Struct("=7qd").pack
"""The bytes of a row: seven whole numbers and the surprisal."""


class PolicyMemory(NamedTuple):
    """The policy memory of B sequences, as in :class:`StepRow`; int64 [B], ``surprisal`` float64."""

    repeated: Tensor
    clarify_used: Tensor
    since_clarify: Tensor
    tokens: Tensor
    surprisal: Tensor


@dataclass(frozen=True, slots=True)
class StepColumns:
    """The new inputs of B rows.

    ``data`` int64 [B, 8], contiguous, a column for each field of StepRow; the last one, ``surprisal``, holds
    the bits of float64 numbers. ``begins``: False where the host knows that no row draws the first token of a
    reply.
    """

    data: Tensor
    begins: bool = True

    @classmethod
    def of(cls, rows: Sequence[StepRow]) -> StepColumns:
        """Returns the columns of these rows on the CPU."""
        lines = [
            _pack(*row[:5], NEVER if row.since_clarify is None else row.since_clarify, *row[6:])
            for row in rows
        ]
        numbers = np.frombuffer(bytearray().join(lines), np.int64).reshape(len(rows), len(StepRow._fields))
        return cls(torch.from_numpy(numbers), any(row.position == 0 for row in rows))

    def to(self, device: torch.device | str) -> StepColumns:
        """Returns the same columns on a device, by a copy that need not have ended."""
        return replace(self, data=self.data.to(device, non_blocking=True))

    @property
    def positions(self) -> Tensor:
        """Returns the rows' positions, [B]."""
        return self.data[:, 0]

    @property
    def forced(self) -> Tensor:
        """Returns the rows' forced tokens, [B]."""
        return self.data[:, 1]

    @property
    def clarify(self) -> Tensor:
        """Returns the first tokens of the clarifying texts, [B]."""
        return self.data[:, 2]

    @property
    def memory(self) -> PolicyMemory:
        """Returns the policy memory of the rows' sequences."""
        data = self.data
        surprisal = data.view(torch.float64)[:, _SURPRISAL]
        return PolicyMemory(data[:, 3], data[:, 4], data[:, 5], data[:, 6], surprisal)
