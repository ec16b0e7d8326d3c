"""The facts that do not move: the model, the KV cache and the calibration profile, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from entropick_sampler.profile import QUANTILE_LEVELS, Profile

from ..engine.types import EngineGauges, ModelInfo


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The settings of a server that dashboards show. Filled from the settings, read by the metrics."""

    version: str
    engine: str
    max_num_seqs: int
    enable_prefix_caching: bool


class InfoCollector(Collector):
    """A collector of the facts of the served model, its cache and its profile; none before it is loaded."""

    def __init__(self) -> None:
        self._model: ModelInfo | None = None
        self._profile: Profile | None = None
        self._facts = ServerFacts("", "", 0, False)
        self._read: Callable[[], EngineGauges] | None = None

    def bind(
        self, model: ModelInfo, profile: Profile | None, facts: ServerFacts, read: Callable[[], EngineGauges]
    ) -> None:
        """Takes the facts of a loaded model; ``read`` returns the gauges of a moment."""
        self._model, self._profile, self._facts, self._read = model, profile, facts, read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the families, at every scrape."""
        if self._model is None or self._read is None:
            return
        yield self._info(
            "model_info",
            "The served model; always 1.",
            {
                "architecture": self._model.architecture,
                "dtype": self._model.dtype,
                "device": self._model.device,
                "profile": "none" if self._profile is None else self._profile.id,
                "engine": self._facts.engine,
                "version": self._facts.version,
            },
        )
        yield self._info(
            "cache_config_info",
            "The KV cache and the limits of the batch; always 1.",
            {
                "num_blocks": str(self._read().blocks_total),
                "enable_prefix_caching": str(self._facts.enable_prefix_caching).lower(),
                "max_num_seqs": str(self._facts.max_num_seqs),
                "max_model_len": str(self._model.max_model_len),
            },
        )
        if self._profile is not None:
            yield self._quantiles(self._model.name, self._profile)
            yield self._thresholds(self._model.name, self._profile)

    def _info(self, name: str, help_text: str, labels: dict[str, str]) -> GaugeMetricFamily:
        model_name = "" if self._model is None else self._model.name
        family = GaugeMetricFamily(f"entropick_{name}", help_text, labels=["model_name", *labels])
        family.add_metric([model_name, *labels.values()], 1.0)
        return family

    @staticmethod
    def _quantiles(model_name: str, profile: Profile) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "entropick_calibration_quantile",
            "Quantiles of a signal over the calibration text, in the signal's unit.",
            labels=["model_name", "signal", "level"],
        )
        for signal, values in sorted(profile.quantiles.items()):
            for level, value in zip(map(floatToGoString, QUANTILE_LEVELS), values, strict=True):
                family.add_metric([model_name, signal, level], value)
        return family

    @staticmethod
    def _thresholds(model_name: str, profile: Profile) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "entropick_calibration_threshold",
            "Cut points of the profile: the policy's (bits, bits^2) and the quadrants'.",
            labels=["model_name", "threshold"],
        )
        for name, value in sorted(profile.thresholds.items()):
            family.add_metric([model_name, name], value)
        if (cuts := profile.genuineness) is not None:
            for name, cut in (
                ("genuineness_genuine", cuts.genuine),
                ("genuineness_mechanical", cuts.mechanical),
                ("genuineness_cost", cuts.cost),
                ("genuineness_pull", cuts.pull),
            ):
                if cut is not None:
                    family.add_metric([model_name, name], cut)
        return family
