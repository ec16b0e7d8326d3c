"""The signals of one decode step as [B]-shaped tensors: what ``decide`` looks at."""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor

from .signals import POLICY_SIGNALS

_COLUMN: Final = {signal.name: i for i, signal in enumerate(POLICY_SIGNALS)}


class StepStats(NamedTuple):
    """One row a sequence, one column a signal of ``POLICY_SIGNALS``, in the signal's unit.

    ``values``: float32 or float64 [B, S]; ``valid``: bool [B, S], False where the engine cannot measure a
    signal (its value is then 0 and must not be shown).
    """

    values: Tensor
    valid: Tensor

    def column(self, name: str) -> Tensor:
        """One signal by name, [B]."""
        return self.values[:, _COLUMN[name]]

    def has(self, name: str) -> Tensor:
        """Whether a signal was measured, bool [B]."""
        return self.valid[:, _COLUMN[name]]
