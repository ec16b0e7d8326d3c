"""The signals of one decode step as [B]-shaped tensors: what ``decide`` looks at."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StepStats(NamedTuple):
    """One row a sequence, one column a signal of ``POLICY_SIGNALS``, in the signal's unit.

    ``values``: float32 or float64 [B, S]; ``valid``: bool [B, S], False where the engine cannot measure a
    signal (its value is then 0 and must not be shown); None where everything was measured.
    """

    values: Tensor
    valid: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """The values, with 0 for what was not measured, [B, S]."""
        return self.values if self.valid is None else self.values * self.valid
