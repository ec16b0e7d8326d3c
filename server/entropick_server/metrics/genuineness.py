"""The metrics of genuineness: quadrants of running choices, layers, and choices that ended.

The live gauges of G, token cost, collapse rate and sink mass are those of the signals (:mod:`.signals`). A
head has no series of its own: heads are in the telemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from entropick_sampler.genuineness.counts import AXIS
from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.signals import SIGNALS

from ..engine.types import StepReport, WatchedLayers
from .exemplars import exemplar
from .families import Families
from .live import LiveChoices

REGIONS: Final = (*(quadrant.label for quadrant in Quadrant), *AXIS[:2])
"""The values of the label ``quadrant``: the quadrants, and genuine or mechanical without a token cost."""
_BUCKETS: Final = {signal.name: signal.buckets for signal in SIGNALS}


@dataclass(frozen=True, slots=True)
class GenuinenessFigures:
    """The genuineness of a choice that ended. Filled by its run, read by the metrics."""

    score: float | None
    """G of its last window, in the form that the choice asked for"""
    token_cost: float | None
    """bits"""
    collapse_rate: float | None
    heads: Mapping[str, int]
    """quadrant -> heads in it, at every full window of the choice and at its end"""
    pulled: bool
    """whether its score fell by more than the cut point of the pull"""


class EndMetrics:
    """The counters and histograms of choices that ended."""

    def __init__(self, families: Families) -> None:
        self._model_name = ""
        self._heads = families.counter(
            "head_quadrant",
            "Heads in each quadrant of genuineness, at every full window of a choice and at its end; genuine "
            "and mechanical without more: of choices without token costs.",
            "quadrant",
        )
        self._pulls = families.counter(
            "elaboration_pull",
            "Choices whose genuineness fell from the first five scores to the last five by more than the cut "
            "point of the profile, as it did in 5 % of the calibration's replies.",
        )
        self._score = families.histogram(
            "request_genuineness_score",
            "Genuineness G of the last window of a choice that ran.",
            _BUCKETS["genuineness"],
        )
        self._cost = families.histogram(
            "request_token_cost_bits",
            "Token cost of the last window of a choice that asked for it.",
            _BUCKETS["token_cost"],
        )
        self._rate = families.histogram(
            "request_collapse_rate_ratio",
            "Collapse rate of the last window of a choice that ran.",
            _BUCKETS["collapse_rate"],
        )

    def bind(self, model_name: str) -> None:
        """Names the model, and begins every series at 0."""
        self._model_name = model_name
        for region in REGIONS:
            self._heads.labels(model_name, region)

    def on_end(self, request_id: str, figures: GenuinenessFigures) -> None:
        """Counts a choice that ran."""
        name, labels = self._model_name, exemplar(request_id)
        for histogram, value in (
            (self._score, figures.score),
            (self._cost, figures.token_cost),
            (self._rate, figures.collapse_rate),
        ):
            if value is not None:
                histogram.labels(name).observe(value, labels)
        for region, heads in figures.heads.items():
            self._heads.labels(name, region).inc(heads)
        if figures.pulled:
            self._pulls.labels(name).inc()


class GenuinenessCollector(Collector):
    """The gauges of running choices: shares of their heads by slot, and means by layer."""

    def __init__(self, live: LiveChoices) -> None:
        self._live = live
        self._layers: WatchedLayers | None = None
        self._model_name = ""

    def bind(self, model_name: str) -> None:
        """Names the model; nothing is collected before."""
        self._model_name = model_name

    def observe(self, report: StepReport) -> None:
        """Takes the newest figures of an engine step."""
        if report.layers is not None:
            self._layers = report.layers
        if not report.gauges.running:
            self._layers = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the families, at every scrape; none before the model is named."""
        if not self._model_name:
            return
        shares = GaugeMetricFamily(
            "entropick_live_quadrant_share_ratio",
            "Share of the heads in each quadrant of genuineness, by the slot of a running choice; aggregate "
            "with avg.",
            labels=["model_name", "slot", "quadrant"],
        )
        for slot, token in self._live.tokens():
            if token.counts is None:
                continue
            regions = token.counts.by_region()
            total = sum(regions.values())
            for region, heads in regions.items():
                shares.add_metric([self._model_name, str(slot), region], heads / total)
        yield shares
        yield self._by_layer("genuineness_score", "Genuineness G", "genuineness")
        yield self._by_layer("token_cost_bits", "Token cost", "token_cost")

    def _by_layer(self, name: str, what: str, field: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            f"entropick_layer_{name}",
            f"{what} of a monitored layer, mean over its heads and over running rows, at most a second old; "
            "aggregate with avg.",
            labels=["model_name", "layer"],
        )
        if self._layers is not None:
            values: tuple[float | None, ...] = getattr(self._layers, field)
            for layer, value in zip(self._layers.layers, values, strict=True):
                if value is not None:
                    family.add_metric([self._model_name, str(layer)], value)
        return family
