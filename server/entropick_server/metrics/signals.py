"""Collectors of the signals: histograms that take a whole step at once, gauges of the running choices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from entropick_sampler.signals import SIGNALS, Signal

from ..engine.types import StepReport, Token
from .exemplars import exemplar


class SignalHistogram:
    """The histogram of one signal; a batch of values is bucketed by one numpy call."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._bounds = np.asarray(signal.buckets, dtype=np.float64)
        self._counts = np.zeros(len(signal.buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        self._largest: dict[int, tuple[str, float, float]] = {}
        """bucket -> the newest exemplar: request id, value, time"""

    def observe(self, values: NDArray[np.float64], request_ids: Sequence[str]) -> None:
        """Adds a step's values, NaN where a row was not measured; the largest becomes an exemplar."""
        known = np.isfinite(values)
        if not known.any():
            return
        # bucket "le" holds value <= bound, hence side="left"
        buckets = np.searchsorted(self._bounds, values[known], side="left")
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum += float(values[known].sum())
        top = int(np.argmax(np.where(known, values, -np.inf)))
        value = float(values[top])
        bucket = int(np.searchsorted(self._bounds, value, side="left"))
        self._largest[bucket] = request_ids[top], value, time.time()

    def family(self, model_name: str) -> HistogramMetricFamily:
        """Returns the exposition of this moment."""
        help_text = f"{self._signal.help} One observation a token."
        family = HistogramMetricFamily(self._signal.metric, help_text, labels=["model_name"])
        bounds = [*map(floatToGoString, self._signal.buckets), "+Inf"]
        totals = np.cumsum(self._counts)
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for bucket, (bound, total) in enumerate(zip(bounds, totals, strict=True)):
            plain = (bound, float(total))
            if (known := self._largest.get(bucket)) is None:
                buckets.append(plain)
            else:
                request_id, value, at = known
                buckets.append((*plain, Exemplar(exemplar(request_id), value, at)))
        family.add_metric([model_name], buckets, self._sum)
        return family


class SignalCollector(Collector):
    """Every signal twice: a histogram over all tokens, and the last value of each running choice by slot."""

    def __init__(self) -> None:
        self._histograms = [SignalHistogram(signal) for signal in SIGNALS]
        self._live: dict[int, tuple[str, Token]] = {}
        self._model_name = ""

    def bind(self, model_name: str) -> None:
        """Names the model; nothing is collected before."""
        self._model_name = model_name

    def observe(self, report: StepReport) -> None:
        """Counts one engine step."""
        rows = [(output.request_id, token) for output in report.outputs for token in output.tokens]
        if rows:
            ids = [request_id for request_id, _ in rows]
            values = np.array([token.signals for _, token in rows], dtype=np.float64)
            for column, histogram in enumerate(self._histograms):
                histogram.observe(values[:, column], ids)
        for output, slot in zip(report.outputs, report.slots, strict=True):
            if slot < 0:
                continue
            if output.finish_reason is not None:
                self._live.pop(slot, None)
            elif output.tokens:
                self._live[slot] = (output.request_id, output.tokens[-1])

    def forget(self, request_id: str) -> None:
        """Drops a choice's gauges: it ended, or its client went away."""
        for slot in [slot for slot, (owner, _) in self._live.items() if owner == request_id]:
            del self._live[slot]

    def collect(self) -> Iterator[HistogramMetricFamily | GaugeMetricFamily]:
        """Yields the families, at every scrape; none before the model is named."""
        if not self._model_name:
            return
        for histogram in self._histograms:
            yield histogram.family(self._model_name)
        for column, signal in enumerate(SIGNALS):
            yield self._gauge(column, signal)

    def _gauge(self, column: int, signal: Signal) -> GaugeMetricFamily:
        name = signal.metric.replace("entropick_", "entropick_live_", 1)
        help_text = (
            f"Last value of {signal.name} in each running choice, by its slot; "
            "aggregate with avg or max, not sum."
        )
        family = GaugeMetricFamily(name, help_text, labels=["model_name", "slot"])
        for slot, (_, token) in sorted(self._live.items()):
            value = token.signals[column]
            if value is not None:
                family.add_metric([self._model_name, str(slot)], value)
        return family
