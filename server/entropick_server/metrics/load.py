"""Gauges of the engine's load, read at the scrape: they are right even while no step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.types import EngineLoad


class LoadCollector(Collector):
    """Running, waiting, cache usage; one server process, so they need no aggregation but sum over servers."""

    def __init__(self) -> None:
        self._read: Callable[[], EngineLoad] | None = None
        self._model_name = ""

    def bind(self, model_name: str, read: Callable[[], EngineLoad]) -> None:
        """Name the model and say where the figures come from."""
        self._model_name = model_name
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called at every scrape."""
        if self._read is None:
            return
        load = self._read()
        figures = (
            ("num_requests_running", "Requests in the running batch; sum over servers.", load.running),
            ("num_requests_waiting", "Requests in the queue; sum over servers.", load.waiting),
            (
                "kv_cache_usage_ratio",
                "Share of the KV cache's pages in use, 0 to 1; average or maximum over servers.",
                load.pages_used / max(load.pages_total, 1),
            ),
        )
        for name, help_text, value in figures:
            family = GaugeMetricFamily(f"entropick_{name}", help_text, labels=["model_name"])
            family.add_metric([self._model_name], value)
            yield family
