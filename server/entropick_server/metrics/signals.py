"""Collectors of the signals: histograms that take a whole step at once, gauges of the running choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from entropick_sampler.profile import Profile
from entropick_sampler.signals import SIGNALS, Signal

from .drift import DriftCollector, places
from .exemplars import exemplar
from .live import LiveChoices
from .steps import STRATEGY_LABELS
from .waiting import TokenBatch

STRATEGIES: Final[tuple[str, ...]] = tuple(STRATEGY_LABELS.values())
"""the values of the label ``strategy``, in the order of the histograms' rows"""


class SignalHistograms:
    """The histograms of all signals by strategy; a batch of values is bucketed in one pass."""

    def __init__(self) -> None:
        widest = max(len(signal.buckets) for signal in SIGNALS)
        # one line a signal; a bound of infinity, which no value exceeds, fills the shorter lines
        self._bounds = np.full((len(SIGNALS), widest), np.inf)
        for line, signal in zip(self._bounds, SIGNALS, strict=True):
            line[: len(signal.buckets)] = signal.buckets
        self._counts = np.zeros((len(STRATEGIES), len(SIGNALS), widest + 1), dtype=np.int64)
        self._sums = np.zeros((len(STRATEGIES), len(SIGNALS)))
        shape = self._counts.shape
        self._newest = np.full(self._counts.size, -1, dtype=np.int64)
        """scratch: the newest row in each bucket"""
        # of each bucket the newest exemplar: request id, value, time; "" where there is none
        self._ids = np.full(shape, "", dtype=object)
        self._values = np.zeros(shape)
        self._times = np.zeros(shape)

    def observe(
        self,
        values: NDArray[np.float64],
        strategies: NDArray[np.int64],
        request_ids: Sequence[str],
        times: Sequence[float] | NDArray[np.float64],
    ) -> None:
        """Adds rows of values [rows, signals], NaN where a signal was not measured, in order of time.

        ``strategies`` [rows] index :data:`STRATEGIES`, ``times`` are Unix seconds. The newest value in a
        bucket becomes its exemplar.
        """
        known = np.isfinite(values)
        rows, columns = known.nonzero()
        strategy_count, signal_count, width = self._counts.shape
        buckets = places(values, self._bounds)[rows, columns]
        place = (strategies[rows] * signal_count + columns) * width + buckets
        # one number a bucket: counting these is ten times as fast as adding at three indices
        self._counts += np.bincount(place, minlength=self._counts.size).reshape(self._counts.shape)
        sums = np.where(known, values, 0.0)
        for strategy in range(strategy_count):
            self._sums[strategy] += sums[strategies == strategy].sum(axis=0)
        # of equal indices the last is assigned, which is the newest
        self._newest[place] = rows
        touched = np.flatnonzero(self._newest >= 0)
        newest = self._newest[touched]
        self._newest[touched] = -1
        self._ids.reshape(-1)[touched] = np.array(request_ids, dtype=object)[newest]
        self._values.reshape(-1)[touched] = values[newest, touched // width % signal_count]
        self._times.reshape(-1)[touched] = np.asarray(times)[newest]

    def family(self, column: int, model_name: str) -> HistogramMetricFamily:
        """Returns the exposition of one signal's histograms at this moment.

        Every strategy has its series from the start, so that its first tokens are an increase.
        """
        signal = SIGNALS[column]
        help_text = f"{signal.help} One observation a token, by the strategy that picked it."
        family = HistogramMetricFamily(signal.metric, help_text, labels=["model_name", "strategy"])
        bounds = [*map(floatToGoString, signal.buckets), "+Inf"]
        for strategy, label in enumerate(STRATEGIES):
            totals = np.cumsum(self._counts[strategy, column, : len(bounds)])
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            newest = zip(
                bounds,
                totals.tolist(),
                *(of[strategy, column].tolist() for of in (self._ids, self._values, self._times)),
                strict=False,  # a signal with fewer buckets than the widest leaves places unused
            )
            for bound, total, request_id, value, at in newest:
                if request_id:
                    told = Exemplar(exemplar(request_id), value, at)
                    buckets.append((bound, float(total), told))
                else:
                    buckets.append((bound, float(total)))
            family.add_metric([model_name, label], buckets, float(self._sums[strategy, column]))
        return family


class SignalCollector(Collector):
    """Every signal twice: histograms over all tokens, and the last value of each running choice by slot."""

    def __init__(self, live: LiveChoices) -> None:
        self._histograms = SignalHistograms()
        self._live = live
        self._drift = DriftCollector()
        self._model_name = ""

    def bind(self, model_name: str, profile: Profile | None) -> None:
        """Names the model and its profile; nothing is collected before."""
        self._model_name = model_name
        self._drift.bind(model_name, profile)

    def count(self, batch: TokenBatch) -> None:
        """Counts some tokens."""
        self._histograms.observe(batch.values, batch.strategies, batch.request_ids, batch.times)
        self._drift.observe(batch.values, ~batch.forced)

    def collect(self) -> Iterator[Metric]:
        """Yields the families, at every scrape; none before the model is named."""
        if not self._model_name:
            return
        for column in range(len(SIGNALS)):
            yield self._histograms.family(column, self._model_name)
        for column, signal in enumerate(SIGNALS):
            yield self._gauge(column, signal)
        yield from self._drift.collect()

    def _gauge(self, column: int, signal: Signal) -> GaugeMetricFamily:
        name = signal.metric.replace("entropick_", "entropick_live_", 1)
        help_text = (
            f"Last value of {signal.name} in each running choice, by its slot; "
            "aggregate with avg or max, not sum."
        )
        family = GaugeMetricFamily(name, help_text, labels=["model_name", "slot"])
        for slot, token in self._live.tokens():
            value = token.signals[column]
            if value is not None:
                family.add_metric([self._model_name, str(slot)], value)
        return family
