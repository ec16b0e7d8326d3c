"""The metrics of one server: one registry, fed by the engine's step reports and by the routes."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from entropick_sampler.strategy import Strategy

from ..engine.types import EngineGauges, StepReport
from .exemplars import exemplar
from .gauges import GaugesCollector
from .signals import SignalCollector

_LABELS: Final[dict[Strategy | None, str]] = {None: "none", **{s: s.label for s in Strategy}}
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_WAIT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
_LONG = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The metrics of one server. The caller must use one thread, the event loop's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._model_name = ""
        self._ran: dict[str, bool] = {}
        """engine requests that have not ended -> whether the engine ran a step for them"""
        self._signals = SignalCollector()
        self._gauges = GaugesCollector()
        self._registry.register(self._signals)
        self._registry.register(self._gauges)
        ProcessCollector(registry=self._registry)
        self._tokens = self._counter(
            "tokens",
            "Tokens by the strategy that picked them (none: the policy was off).",
            "strategy",
            "forced",
        )
        self._prompt_tokens = self._counter(
            "prompt_tokens", "Tokens of prompts whose first choice began, once for all choices of a prompt."
        )
        self._generation_tokens = self._counter("generation_tokens", "Tokens that the engine generated.")
        self._prefix_queries = self._counter(
            "prefix_cache_queries", "Prompt tokens that were looked up in the KV cache."
        )
        self._prefix_hits = self._counter(
            "prefix_cache_hits", "Prompt tokens that were found in the KV cache."
        )
        self._preemptions = self._counter(
            "num_preemptions", "Times that a sequence gave its KV cache pages up and waited again."
        )
        self._rollouts = self._counter(
            "branch_rollouts",
            "Times that branches were rolled out and one kept (first: the one without branching; other).",
            "kept",
        )
        self._branch_tokens = self._counter("branch_tokens", "Tokens of branches that were not kept.")
        self._verdicts = self._counter(
            "consensus_verdicts",
            "Votes that were decided, by why no more replies were drawn (agreed, decided, exhausted).",
            "reason",
        )
        self._consensus_replies = self._counter("consensus_replies", "Replies that took part in votes.")
        self._consensus_tokens = self._counter(
            "consensus_tokens", "Tokens of replies that lost a vote, among the generated tokens."
        )
        self._success = self._counter(
            "request_success",
            "Choices that ran and ended, by reason (stop, length, cancelled, error).",
            "finished_reason",
        )
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to the first token of a choice.", _WAIT
        )
        self._between = self._histogram(
            "inter_token_latency_seconds",
            "Between a choice's tokens, one observation a token but the first.",
            _SHORT,
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to the end of a choice that ran.", _LONG
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From a request's arrival to the first step of a choice.", _WAIT
        )
        self._step = self._histogram("engine_step_seconds", "Duration of an engine step.", _SHORT)

    def bind(self, model_name: str, gauges: Callable[[], EngineGauges]) -> None:
        """Names the model, once it is loaded; ``gauges`` returns the gauges of a moment."""
        self._model_name = model_name
        self._signals.bind(model_name)
        self._gauges.bind(model_name, gauges)

    def on_step(self, report: StepReport) -> None:
        """Counts one engine step (the listener for Engine.subscribe)."""
        self._signals.observe(report)
        if report.duration > 0:
            # a report without one tells of cancels and refusals between two steps, or of a step that failed
            self._step.labels(self._model_name).observe(report.duration)
        for request_id, seconds in report.queued_seconds:
            self.on_ran(request_id)
            self._queue.labels(self._model_name).observe(seconds, exemplar(request_id))
        tally: Tally[tuple[str, str]] = Tally(
            (_LABELS[token.strategy], "true" if token.forced else "false")
            for output in report.outputs
            for token in output.tokens
        )
        for (strategy, forced), count in tally.items():
            self._tokens.labels(self._model_name, strategy, forced).inc(count)
        if tally:
            self._generation_tokens.labels(self._model_name).inc(tally.total())
        if report.prefix_queries:
            self._prefix_queries.labels(self._model_name).inc(report.prefix_queries)
            self._prefix_hits.labels(self._model_name).inc(report.prefix_hits)
        for verdict in report.verdicts:
            self._rollouts.labels(self._model_name, "other" if verdict.kept else "first").inc()
            self._branch_tokens.labels(self._model_name).inc(verdict.tokens)
        for request_id in report.preempted:
            self._signals.forget(request_id)  # it will run in another slot
            self._preemptions.labels(self._model_name).inc()

    def on_begin(self, request_id: str) -> None:
        """Notes that a choice is handed to the engine, which may refuse it."""
        self._ran[request_id] = False

    def on_ran(self, request_id: str) -> None:
        """Notes that the engine ran something of a choice, so that its end will count."""
        if request_id in self._ran:
            self._ran[request_id] = True

    def on_first_token(self, request_id: str, seconds: float, prompt_tokens: int) -> None:
        """Counts a choice's first token, and its prompt's tokens (0 unless it is the first choice)."""
        self.on_ran(request_id)
        self._first.labels(self._model_name).observe(seconds, exemplar(request_id))
        self._prompt_tokens.labels(self._model_name).inc(prompt_tokens)

    def on_tokens(self, seconds: float, count: int) -> None:
        """Counts ``count`` further tokens of a choice, ``seconds`` after the tokens before them."""
        for _ in range(count):
            self._between.labels(self._model_name).observe(seconds / count)

    def on_consensus(self, reason: str, replies: int, lost: int) -> None:
        """Counts a verdict over a prompt's replies; ``lost``: tokens of the replies that do not come back."""
        self._verdicts.labels(self._model_name, reason).inc()
        self._consensus_replies.labels(self._model_name).inc(replies)
        self._consensus_tokens.labels(self._model_name).inc(lost)

    def on_end(self, request_id: str, reason: str, seconds: float) -> bool:
        """Counts a choice's end, well or not. Returns False, and counts nothing, where it never ran."""
        self._signals.forget(request_id)
        if not self._ran.pop(request_id, False):
            return False
        self._success.labels(self._model_name, reason).inc()
        self._whole.labels(self._model_name).observe(seconds, exemplar(request_id))
        return True

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Returns the page and its content type; exemplars are in the OpenMetrics form only."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"entropick_{name}", help_text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"entropick_{name}", help_text, ["model_name"], registry=self._registry, buckets=buckets
        )
