"""The metrics of one server: one registry, fed by the engine's step reports and by the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from entropick_sampler.profile import Profile

from ..engine.types import EngineGauges, ModelInfo, StepReport
from .choices import ChoiceFigures, ChoiceMetrics
from .families import Families
from .gauges import GaugesCollector
from .genuineness import EndMetrics, GenuinenessCollector
from .http import HttpMetrics
from .info import InfoCollector, ServerFacts
from .live import LiveChoices
from .signals import SignalCollector
from .steps import StepMetrics
from .waiting import WaitingTokens
from .writing import PageWriter

_RARE_ESCAPES: Final = ("escaping=dots", "escaping=values")
"""forms in which names are changed that need no escaping"""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The families of one moment, which no longer change, so that any thread may write them down."""

    families: tuple[Metric, ...]
    writer: PageWriter

    def collect(self) -> tuple[Metric, ...]:
        """Returns the families, as the encoders of prometheus_client ask a registry for them."""
        return self.families

    def encode(self, accept: str) -> tuple[bytes, str]:
        """Returns the page and its content type; exemplars are in the OpenMetrics form only."""
        encoder, content_type = choose_encoder(accept)
        if content_type.endswith(_RARE_ESCAPES):
            return encoder(self), content_type
        openmetrics = content_type.startswith("application/openmetrics-text")
        return self.writer.write(self.families, openmetrics=openmetrics), content_type


class Metrics:
    """The metrics of one server. The caller must use one thread, the event loop's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._model_name = ""
        self._writer = PageWriter()
        self._waiting = WaitingTokens()
        self._live = live = LiveChoices()
        self._signals = SignalCollector(live)
        self._gauges = GaugesCollector()
        self._info = InfoCollector()
        self._watched = GenuinenessCollector(live)
        for collector in (self._signals, self._watched, self._gauges, self._info):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._families = families = Families(self._registry)
        self.choices = ChoiceMetrics(families)
        self.http = HttpMetrics(families)
        self._steps = StepMetrics(families)
        self._ended = EndMetrics(families)
        self._verdicts = families.counter(
            "consensus_verdicts",
            "Votes that were decided, by why no more replies were drawn (agreed, decided, exhausted).",
            "reason",
        )
        self._consensus_replies = families.counter("consensus_replies", "Replies that took part in votes.")
        self._consensus_tokens = families.counter(
            "consensus_tokens", "Tokens of replies that lost a vote, among the generated tokens."
        )

    def bind(
        self,
        model: ModelInfo,
        profile: Profile | None,
        facts: ServerFacts,
        gauges: Callable[[], EngineGauges],
    ) -> None:
        """Names the model, once it is loaded; ``gauges`` returns the gauges of a moment."""
        self._model_name = name = model.name
        self._signals.bind(name, profile)
        for part in (self._families, self.choices, self.http, self._steps, self._watched, self._ended):
            part.bind(name)
        for reason in ("agreed", "decided", "exhausted"):
            self._verdicts.labels(name, reason)
        self._gauges.bind(name, gauges)
        self._info.bind(model, profile, facts, gauges)

    def on_step(self, report: StepReport) -> None:
        """Counts one engine step (the listener for Engine.subscribe)."""
        tokens = self._waiting.add(report)
        self._live.observe(report)
        self._watched.observe(report)
        self._steps.on_step(report, tokens)
        self.choices.on_step(report)
        if self._waiting.enough:
            self._count()

    def _count(self) -> None:
        """Counts the tokens that wait."""
        if (batch := self._waiting.take()) is not None:
            self._signals.count(batch)
            self._steps.count(batch)

    def on_end(self, request_id: str, reason: str, seconds: float, figures: ChoiceFigures) -> bool:
        """Counts a choice's end, well or not. Returns False, and counts nothing, where it never ran."""
        self._live.forget(request_id)
        ran = self.choices.on_end(request_id, reason, seconds, figures)
        if ran and figures.genuineness is not None:
            self._ended.on_end(request_id, figures.genuineness)
        return ran

    def on_consensus(self, reason: str, replies: int, lost: int) -> None:
        """Counts a verdict over a prompt's replies; ``lost``: tokens of the replies that do not come back."""
        self._verdicts.labels(self._model_name, reason).inc()
        self._consensus_replies.labels(self._model_name).inc(replies)
        self._consensus_tokens.labels(self._model_name).inc(lost)

    def snapshot(self) -> MetricsPage:
        """Returns all families as they are now, without the times of their creation.

        Each of these would be a series more, which nobody asks for.
        """
        self._count()
        families = tuple(self._registry.collect())
        for family in families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        return MetricsPage(families, self._writer)
