"""A histogram whose values wait and are put into buckets many at a time, without exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_AT_ONCE: Final = 512


class BatchedHistogram(Collector):
    """A histogram of one model for events of every token: an observation costs an append."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        """Prepares a histogram without observations; ``bounds`` are the upper ends of buckets."""
        self._name = name
        self._help = help_text
        self._model_name = ""
        self._bounds = np.array(bounds, dtype=np.float64)
        self._labels = [*map(floatToGoString, bounds), "+Inf"]
        self._counts = np.zeros(len(self._labels), dtype=np.int64)
        self._sum = 0.0
        self._waiting: list[float] = []

    def bind(self, model_name: str) -> None:
        """Names the model; nothing is collected before."""
        self._model_name = model_name

    def observe(self, value: float) -> None:
        """Adds an observation."""
        self._waiting.append(value)
        if len(self._waiting) >= _AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Counts the observations that wait."""
        values = np.array(self._waiting)
        self._waiting = []
        # a value that is a bound lies below it, as "le" has it
        places = self._bounds.searchsorted(values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yields the family, at every scrape; none before the model is named."""
        if not self._model_name:
            return
        if self._waiting:
            self._count()
        family = HistogramMetricFamily(self._name, self._help, labels=["model_name"])
        totals = map(float, np.cumsum(self._counts).tolist())
        family.add_metric([self._model_name], list(zip(self._labels, totals, strict=True)), self._sum)
        yield family
