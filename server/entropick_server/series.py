"""The figures of a choice's tokens as compact arrays, which /v1/requests shows column by column."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Token, TokenParameters
from .telemetry import STRATEGY_LABELS
from .vocabulary import Vocabulary

_NAN: Final = math.nan
_PARAMETERS: Final = ("temperature", "top_p", "top_k", "min_p", "n_candidates")
_NAMES: Final = {-1: None, **{int(strategy): label for strategy, label in STRATEGY_LABELS.items()}}


@dataclass(frozen=True, slots=True)
class Series:
    """The figures of a choice's tokens, exact.

    ``begin``: the place of the first in the reply. NaN: not known; -1: no strategy. ``parameters``: a column
    for each of temperature, top_p, top_k, min_p, n_candidates; ``signals``: in the order of SIGNALS.
    ``only_choice``: 1 for a token that had no alternative; empty where every token had one.
    """

    token_ids: array[int]
    strategies: array[int]
    forced: array[int]
    parameters: tuple[array[float], ...]
    signals: tuple[array[float], ...]
    begin: int = 0
    only_choice: array[int] = field(default_factory=lambda: array("b"))

    @classmethod
    def of(cls, tokens: Sequence[Token], begin: int = 0) -> Series:
        """Packs the figures of tokens into arrays."""
        return cls(
            array("q", [t.token_id for t in tokens]),
            array("b", [-1 if t.strategy is None else int(t.strategy) for t in tokens]),
            array("b", [t.forced for t in tokens]),
            tuple(array("d", [_parameter(t.parameters, name) for t in tokens]) for name in _PARAMETERS),
            tuple(
                array("d", [_NAN if (v := t.signals[column]) is None else v for t in tokens])
                for column in range(len(SIGNAL_NAMES))
            ),
            begin,
            array("b", [t.only_choice for t in tokens] if any(t.only_choice for t in tokens) else ()),
        )

    @property
    def size(self) -> int:
        """Returns the bytes of the arrays."""
        whole = (self.token_ids, self.strategies, self.forced, self.only_choice)
        floats = (*self.parameters, *self.signals)
        return sum(len(c) * c.itemsize for c in whole) + sum(len(c) * c.itemsize for c in floats)

    def signal(self, name: str) -> array[float]:
        """Returns the column of a signal, NaN where it was not measured."""
        return self.signals[SIGNAL_NAMES.index(name)]

    def columns(self, vocabulary: Vocabulary) -> dict[str, list[Any]]:
        """Returns the series column by column, one entry a token; None where a figure is not known."""
        columns: dict[str, list[Any]] = {
            "index": list(range(self.begin, self.begin + len(self.token_ids))),
            "token_id": list(self.token_ids),
            "token": [vocabulary.labels[token_id] for token_id in self.token_ids],
            "strategy": [_NAMES[s] for s in self.strategies],
            "forced": [bool(f) for f in self.forced],
        }
        if self.only_choice:
            columns["only_choice"] = [bool(o) for o in self.only_choice]
        for name, values in zip(_PARAMETERS, self.parameters, strict=True):
            whole = name in ("top_k", "n_candidates")
            columns[name] = [None if math.isnan(v) else int(v) if whole else v for v in values]
        for name, values in zip(SIGNAL_NAMES, self.signals, strict=True):
            columns[name] = [v if math.isfinite(v) else None for v in values]
        return columns


def _parameter(parameters: TokenParameters | None, name: str) -> float:
    return _NAN if parameters is None else float(getattr(parameters, name))
