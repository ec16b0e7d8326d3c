"""The last requests with their series, for dashboards: bounded in requests and in tokens, no prompt text."""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from entropick_sampler.params import Strategy
from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Token
from .protocol.responses import Summary

MAX_SERIES = 4096
"""tokens of one request whose figures are kept"""


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice that ended, its series as compact arrays.

    NaN: not measured, as a temperature: not drawn. -1: no strategy.
    """

    id: str
    choice: int
    request_id: str
    route: str
    model: str
    created: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    time_to_first_token: float | None
    duration: float
    summary: Summary
    token_ids: array[int]
    strategies: array[int]
    temperatures: array[float]
    signals: tuple[array[float], ...]

    def head(self) -> dict[str, Any]:
        """Without the series."""
        return {
            "id": self.id,
            "choice": self.choice,
            "request_id": self.request_id,
            "route": self.route,
            "model": self.model,
            "created": self.created,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "time_to_first_token": self.time_to_first_token,
            "duration": self.duration,
            "summary": self.summary.model_dump(exclude_unset=True),
        }

    def series(self, label: Callable[[int], str]) -> dict[str, list[Any]]:
        """Column by column, one entry a token."""
        columns: dict[str, list[Any]] = {
            "index": list(range(len(self.token_ids))),
            "token_id": list(self.token_ids),
            "token": [label(token_id) for token_id in self.token_ids],
            "strategy": [None if s < 0 else Strategy(s).label for s in self.strategies],
            "temperature": [None if math.isnan(t) else t for t in self.temperatures],
        }
        for name, values in zip(SIGNAL_NAMES, self.signals, strict=True):
            columns[name] = [None if math.isnan(v) else v for v in values]
        return columns


def pack(tokens: Sequence[Token]) -> dict[str, Any]:
    """The four series of :class:`Finished`."""
    kept = tokens[:MAX_SERIES]
    nan = math.nan

    def temperature(token: Token) -> float:
        return nan if token.forced or token.parameters is None else token.parameters.temperature

    return {
        "token_ids": array("q", (t.token_id for t in kept)),
        "strategies": array("b", (-1 if t.strategy is None else int(t.strategy) for t in kept)),
        "temperatures": array("f", (temperature(t) for t in kept)),
        "signals": tuple(
            array("f", (nan if (v := t.signals[column]) is None else v for t in kept))
            for column in range(len(SIGNAL_NAMES))
        ),
    }


class RecentRequests:
    """The last ``limit`` answers, the newest last; an answer's choices stay together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: OrderedDict[str, list[Finished]] = OrderedDict()

    def add(self, finished: Finished) -> None:
        """Remember one, forget the oldest answer beyond the limit."""
        self._answers.setdefault(finished.id, []).append(finished)
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)

    def newest(self) -> list[Finished]:
        """All of them, newest first."""
        return [choice for choices in reversed(self._answers.values()) for choice in choices]

    def find(self, name: str) -> list[Finished]:
        """The choices of an answer, by its id or by its X-Request-Id (the newest of that); empty: unknown."""
        found = self._answers.get(name)
        if found is None:
            named = (c for c in reversed(self._answers.values()) if c[0].request_id == name)
            found = next(named, [])
        return sorted(found, key=lambda finished: finished.choice)
