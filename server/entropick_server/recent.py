"""The last requests with their series, for dashboards: bounded in requests and in bytes, no prompt text."""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Token
from .protocol.responses import Summary
from .telemetry import STRATEGY_LABELS
from .vocabulary import Vocabulary

MAX_SERIES: Final = 4096
"""tokens of one choice whose figures are kept"""
MAX_BYTES: Final = 32 << 20
"""bytes that all choices may take together"""
_HEAD_BYTES: Final = 8 << 10
"""about what a choice takes beside its series, most of it for the summary"""
_NAN: Final = math.nan


@dataclass(frozen=True, slots=True)
class Series:
    """The figures of a choice's tokens as compact arrays, for at most :data:`MAX_SERIES` of them.

    NaN: not measured, as a temperature: not drawn. -1: no strategy.
    """

    token_ids: array[int]
    strategies: array[int]
    temperatures: array[float]
    signals: tuple[array[float], ...]

    @classmethod
    def of(cls, tokens: Sequence[Token]) -> Series:
        """Packs the figures of tokens into arrays."""
        kept = tokens[:MAX_SERIES]
        temperatures = (_NAN if t.forced or t.parameters is None else t.parameters.temperature for t in kept)
        return cls(
            array("q", [t.token_id for t in kept]),
            array("b", [-1 if t.strategy is None else int(t.strategy) for t in kept]),
            array("f", temperatures),
            tuple(
                array("f", [_NAN if (v := t.signals[column]) is None else v for t in kept])
                for column in range(len(SIGNAL_NAMES))
            ),
        )

    @property
    def size(self) -> int:
        """Returns the bytes of the arrays."""
        floats = len(self.temperatures) * self.temperatures.itemsize * (1 + len(self.signals))
        return len(self.token_ids) * (self.token_ids.itemsize + self.strategies.itemsize) + floats

    def columns(self, vocabulary: Vocabulary) -> dict[str, list[Any]]:
        """Returns the series column by column, one entry a token."""
        names = {-1: None, **{int(strategy): label for strategy, label in STRATEGY_LABELS.items()}}
        columns: dict[str, list[Any]] = {
            "index": list(range(len(self.token_ids))),
            "token_id": list(self.token_ids),
            "token": [vocabulary.labels[token_id] for token_id in self.token_ids],
            "strategy": [names[s] for s in self.strategies],
        }
        floats = zip(("temperature", *SIGNAL_NAMES), (self.temperatures, *self.signals), strict=True)
        for name, values in floats:
            columns[name] = [None if math.isnan(v) else v for v in values]
        return columns


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice that ended."""

    id: str
    """of its answer"""
    choice: int
    request_id: str
    summary: Summary
    series: Series
    figures: Mapping[str, Any]
    """the other entries of ``head``"""

    @property
    def size(self) -> int:
        """Returns the bytes that the choice takes, about."""
        return _HEAD_BYTES + self.series.size

    def head(self) -> dict[str, Any]:
        """Returns the choice as /v1/requests shows it, without the series."""
        names = {"id": self.id, "choice": self.choice, "request_id": self.request_id}
        return {**names, **self.figures, "summary": self.summary.model_dump(exclude_unset=True)}


class RecentRequests:
    """The last ``limit`` answers, the newest last, in at most ``max_bytes``.

    An answer's choices stay together; one that has no room beside the earlier choices of its own answer is
    not kept.
    """

    def __init__(self, limit: int, max_bytes: int = MAX_BYTES) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._answers: OrderedDict[str, list[Finished]] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Returns the bytes in use, about."""
        return self._size

    def add(self, finished: Finished) -> None:
        """Keeps a choice, and forgets the oldest answers beyond the limits."""
        own = sum(choice.size for choice in self._answers.get(finished.id, ()))
        if not self._limit or own + finished.size > self._max_bytes:
            return
        self._answers.setdefault(finished.id, []).append(finished)
        self._size += finished.size
        while len(self._answers) > self._limit or self._size > self._max_bytes:
            _, choices = self._answers.popitem(last=False)
            self._size -= sum(choice.size for choice in choices)

    def newest(self) -> list[Finished]:
        """Returns all choices, the newest answer's first."""
        return [choice for choices in reversed(self._answers.values()) for choice in choices]

    def find(self, name: str) -> list[Finished]:
        """Returns the choices of an answer, by its id or its X-Request-Id (the newest of that), or none."""
        found = self._answers.get(name)
        if found is None:
            named = (c for c in reversed(self._answers.values()) if c[0].request_id == name)
            found = next(named, [])
        return sorted(found, key=lambda finished: finished.choice)
