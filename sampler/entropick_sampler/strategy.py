"""The strategies: the ways to pick a token."""

from __future__ import annotations

import enum
from typing import Final


class Strategy(enum.IntEnum):
    """The ways to pick a token; ADAPTIVE takes the tokens that the other four regions leave over."""

    GREEDY = 0
    CLARIFY = 1
    EXPLORE = 2
    HIGH_UNCERTAINTY = 3
    ADAPTIVE = 4

    @property
    def label(self) -> str:
        """Returns the name on the wire and in metrics."""
        return self.name.lower()


STRATEGY_OFF: Final = -1
"""The value of Decision.strategy where the policy is off (policy "fixed", or a request's temperature 0)."""
