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


class SignalHistograms:
    """The histograms of all signals; a batch of values is bucketed in one pass."""

    def __init__(self) -> None:
        widest = max(len(signal.buckets) for signal in SIGNALS)
        # one line a signal; a bound of infinity, which no value exceeds, fills the shorter lines
        self._bounds = np.full((len(SIGNALS), widest), np.inf)
        for line, signal in zip(self._bounds, SIGNALS, strict=True):
            line[: len(signal.buckets)] = signal.buckets
        self._columns = np.arange(len(SIGNALS))
        self._counts = np.zeros((len(SIGNALS), widest + 1), dtype=np.int64)
        self._sums = np.zeros(len(SIGNALS))
        self._largest: tuple[dict[int, tuple[str, float, float]], ...] = tuple({} for _ in SIGNALS)
        """of each signal: bucket -> the newest exemplar, as request id, value, time"""

    def observe(self, values: NDArray[np.float64], request_ids: Sequence[str]) -> None:
        """Adds a step's values [rows, signals], NaN where a signal was not measured.

        The largest value of each signal becomes an exemplar.
        """
        known = np.isfinite(values)
        # bucket "le" holds value <= bound
        buckets = (values[:, :, None] > self._bounds).sum(-1)
        np.add.at(self._counts, (np.broadcast_to(self._columns, buckets.shape), buckets), known)
        self._sums += np.where(known, values, 0.0).sum(0)
        tops = np.where(known, values, -np.inf).argmax(0).tolist()
        now = time.time()
        for column, row in enumerate(tops):
            if known[row, column]:
                exemplar_of = request_ids[row], float(values[row, column]), now
                self._largest[column][int(buckets[row, column])] = exemplar_of

    def family(self, column: int, model_name: str) -> HistogramMetricFamily:
        """Returns the exposition of one signal's histogram at this moment."""
        signal = SIGNALS[column]
        help_text = f"{signal.help} One observation a token."
        family = HistogramMetricFamily(signal.metric, help_text, labels=["model_name"])
        bounds = [*map(floatToGoString, signal.buckets), "+Inf"]
        totals = np.cumsum(self._counts[column, : len(bounds)])
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for bucket, (bound, total) in enumerate(zip(bounds, totals, strict=True)):
            plain = (bound, float(total))
            if (known := self._largest[column].get(bucket)) is None:
                buckets.append(plain)
            else:
                request_id, value, at = known
                buckets.append((*plain, Exemplar(exemplar(request_id), value, at)))
        family.add_metric([model_name], buckets, float(self._sums[column]))
        return family


class SignalCollector(Collector):
    """Every signal twice: a histogram over all tokens, and the last value of each running choice by slot."""

    def __init__(self) -> None:
        self._histograms = SignalHistograms()
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
            self._histograms.observe(values, ids)
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
        for column in range(len(SIGNALS)):
            yield self._histograms.family(column, self._model_name)
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
