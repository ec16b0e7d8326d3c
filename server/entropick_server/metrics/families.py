"""The counters and histograms of one server: each is named once, and labelled with the model's name."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from .batched import BatchedHistogram

SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
"""bounds in seconds for a token or a step"""
WAIT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
"""bounds in seconds for the time before a first token"""
LONG = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""bounds in seconds for a whole choice"""
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)
"""bounds for the tokens of a choice"""
ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""bounds for the tokens of a step, which are vLLM's"""
CHOICES = (1, 2, 5, 10, 20)
"""bounds for the choices of a prompt"""


class Families:
    """A maker of counters and histograms in one registry, with the label ``model_name`` before all others."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._plain: list[Counter | Histogram] = []
        self._batched: list[BatchedHistogram] = []

    def bind(self, model_name: str) -> None:
        """Begins every family without another label at 0, so that its first count is an increase."""
        for family in self._plain:
            family.labels(model_name)
        for histogram in self._batched:
            histogram.bind(model_name)

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        """Returns a new counter; ``name`` has neither prefix nor ``_total``."""
        family = Counter(f"entropick_{name}", help_text, ["model_name", *labels], registry=self._registry)
        if not labels:
            self._plain.append(family)
        return family

    def histogram(self, name: str, help_text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        """Returns a new histogram; ``name`` ends with its unit, ``bounds`` are the upper ends of buckets."""
        family = Histogram(
            f"entropick_{name}",
            help_text,
            ["model_name", *labels],
            registry=self._registry,
            buckets=tuple(bounds),
        )
        if not labels:
            self._plain.append(family)
        return family

    def batched_histogram(self, name: str, help_text: str, bounds: Sequence[float]) -> BatchedHistogram:
        """Returns a new histogram for events of every token or step: it keeps no exemplars."""
        histogram = BatchedHistogram(f"entropick_{name}", help_text, bounds)
        self._registry.register(histogram)
        self._batched.append(histogram)
        return histogram
