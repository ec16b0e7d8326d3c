"""Gauges of the engine, read at the scrape: they are right even while no step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.types import EngineGauges


class GaugesCollector(Collector):
    """A collector of the running and waiting rows and the share of the KV cache in use."""

    def __init__(self) -> None:
        self._read: Callable[[], EngineGauges] | None = None
        self._model_name = ""

    def bind(self, model_name: str, read: Callable[[], EngineGauges]) -> None:
        """Names the model; ``read`` returns the gauges of a moment."""
        self._model_name = model_name
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the families, at every scrape; none before the model is named."""
        if self._read is None:
            return
        now = self._read()
        figures = (
            (
                "num_requests_running",
                "Rows that run: a choice is one, an open branch too; sum over servers.",
                now.running,
            ),
            ("num_requests_waiting", "Rows in the engine's queue, likewise; sum over servers.", now.waiting),
            (
                "kv_cache_usage_ratio",
                "Share of the KV cache in use, 0 to 1; average or maximum over servers.",
                now.blocks_used / max(now.blocks_total, 1),
            ),
        )
        for name, help_text, value in figures:
            family = GaugeMetricFamily(f"entropick_{name}", help_text, labels=["model_name"])
            family.add_metric([self._model_name], value)
            yield family
