"""Collectors of the signals: histograms that take a whole step at once, gauges of the running choices."""

from __future__ import annotations

import time
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

from ..engine.types import StepReport, Token
from .drift import DriftCollector, places
from .exemplars import exemplar
from .steps import STRATEGY_LABELS

STRATEGIES: Final[tuple[str, ...]] = tuple(STRATEGY_LABELS.values())
"""the values of the label ``strategy``, in the order of the histograms' rows"""
_AT_ONCE: Final = 256
_INDEX: Final = {strategy: index for index, strategy in enumerate(STRATEGY_LABELS)}


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
        # of each bucket the newest exemplar: request id, value, time; "" where there is none
        self._ids = np.full(shape, "", dtype=object)
        self._values = np.zeros(shape)
        self._times = np.zeros(shape)

    def observe(
        self,
        values: NDArray[np.float64],
        strategies: NDArray[np.int64],
        request_ids: Sequence[str],
        times: Sequence[float],
    ) -> None:
        """Adds rows of values [rows, signals], NaN where a signal was not measured, in order of time.

        ``strategies`` [rows] index :data:`STRATEGIES`, ``times`` are Unix seconds. The newest value in a
        bucket becomes its exemplar.
        """
        known = np.isfinite(values)
        buckets = places(values, self._bounds)
        rows, columns = known.nonzero()
        place = strategies[rows], columns, buckets[rows, columns]
        np.add.at(self._counts, place, 1)
        np.add.at(self._sums, strategies, np.where(known, values, 0.0))
        self._ids[place] = np.array(request_ids, dtype=object)[rows]
        self._values[place] = values[rows, columns]
        self._times[place] = np.array(times)[rows]

    def family(self, column: int, model_name: str) -> HistogramMetricFamily:
        """Returns the exposition of one signal's histograms at this moment.

        A strategy that no token of the signal had is left out, so that only what happens makes series.
        """
        signal = SIGNALS[column]
        help_text = f"{signal.help} One observation a token, by the strategy that picked it."
        family = HistogramMetricFamily(signal.metric, help_text, labels=["model_name", "strategy"])
        bounds = [*map(floatToGoString, signal.buckets), "+Inf"]
        for strategy, label in enumerate(STRATEGIES):
            totals = np.cumsum(self._counts[strategy, column, : len(bounds)])
            if not totals[-1]:
                continue
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

    def __init__(self) -> None:
        self._histograms = SignalHistograms()
        self._waiting: list[tuple[str, float, Token]] = []
        """request id, time and token, not counted yet: some hundred at once take a third of the time"""
        self._live: dict[int, tuple[str, Token]] = {}
        self._drift = DriftCollector()
        self._model_name = ""

    def bind(self, model_name: str, profile: Profile | None) -> None:
        """Names the model and its profile; nothing is collected before."""
        self._model_name = model_name
        self._drift.bind(model_name, profile)

    def observe(self, report: StepReport) -> None:
        """Counts one engine step."""
        now = time.time()
        self._waiting += [
            (output.request_id, now, token) for output in report.outputs for token in output.tokens
        ]
        if len(self._waiting) >= _AT_ONCE:
            self._count()
        for output, slot in zip(report.outputs, report.slots, strict=True):
            if slot < 0:
                continue
            if output.finish_reason is not None:
                self._live.pop(slot, None)
            elif output.tokens:
                self._live[slot] = (output.request_id, output.tokens[-1])

    def _count(self) -> None:
        """Counts the tokens that wait."""
        if not self._waiting:
            return
        ids, times, tokens = zip(*self._waiting, strict=True)
        self._waiting.clear()
        values = np.array([token.signals for token in tokens], dtype=np.float64)
        strategies = np.array([_INDEX[token.strategy] for token in tokens])
        self._histograms.observe(values, strategies, ids, times)
        self._drift.observe(values, np.array([not token.forced for token in tokens]))

    def forget(self, request_id: str) -> None:
        """Drops a choice's gauges: it ended, or its client went away."""
        for slot in [slot for slot, (owner, _) in self._live.items() if owner == request_id]:
            del self._live[slot]

    def collect(self) -> Iterator[Metric]:
        """Yields the families, at every scrape; none before the model is named."""
        if not self._model_name:
            return
        self._count()
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
        for slot, (_, token) in sorted(self._live.items()):
            value = token.signals[column]
            if value is not None:
                family.add_metric([self._model_name, str(slot)], value)
        return family
