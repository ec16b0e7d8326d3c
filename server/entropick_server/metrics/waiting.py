"""The tokens that were generated and not counted yet: some hundred are counted at once, as arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..engine.types import StepReport

_AT_ONCE: Final = 512
"""tokens from which they are counted; fewer wait for the next scrape"""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The tokens of some steps in the order of time, a row each."""

    request_ids: tuple[str, ...]
    times: NDArray[np.float64]
    """Unix seconds"""
    values: NDArray[np.float64]
    """[rows, signals], NaN where a signal was not measured, and where a token had no alternative"""
    strategies: NDArray[np.int64]
    """the places of the tokens' strategies in STRATEGY_LABELS"""
    forced: NDArray[np.bool_]
    collapsed: int
    """heads that collapsed in the tokens' steps, all together"""


class WaitingTokens:
    """A queue of step reports whose tokens are not counted."""

    def __init__(self) -> None:
        self._reports: list[tuple[float, StepReport]] = []
        self._tokens = 0

    def add(self, report: StepReport) -> int:
        """Takes the report of a step. Returns how many tokens it brought."""
        tokens = sum([len(output.tokens) for output in report.outputs])
        if tokens:
            self._reports.append((time.time(), report))
            self._tokens += tokens
        return tokens

    @property
    def enough(self) -> bool:
        """Tells whether so many tokens wait that counting them is worth it."""
        return self._tokens >= _AT_ONCE

    def take(self) -> TokenBatch | None:
        """Returns the tokens that wait, which are then gone; None where there are none."""
        if not self._tokens:
            return None
        rows = [
            (output.request_id, at, token)
            for at, report in self._reports
            for output in report.outputs
            for token in output.tokens
        ]
        self._reports, self._tokens = [], 0
        request_ids, times, tokens = zip(*rows, strict=True)
        values = np.array([token.signals for token in tokens], dtype=np.float64)
        values[[token.only_choice for token in tokens]] = np.nan
        return TokenBatch(
            request_ids,
            np.array(times),
            values,
            # no strategy is the first of the labels
            np.array([0 if token.strategy is None else token.strategy + 1 for token in tokens]),
            np.array([token.forced for token in tokens]),
            sum([token.collapsed for token in tokens]),
        )
