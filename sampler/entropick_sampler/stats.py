"""The signals of a decode step as tensors, from which ``decide`` decides."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StepStats(NamedTuple):
    """The signals of B rows: a column for each signal of ``POLICY_SIGNALS``, in its unit.

    ``values``: float32 or float64 [B, S]; ``valid``: bool [B, S], False where the engine cannot measure a
    signal (its value is then 0 and must not be shown); None where everything was measured.
    """

    values: Tensor
    valid: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Returns the values, with 0 where a signal was not measured, [B, S]."""
        return self.values if self.valid is None else self.values * self.valid
