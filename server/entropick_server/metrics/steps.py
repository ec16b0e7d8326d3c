"""The counters that engine steps feed: tokens by strategy, branches, the KV cache, durations."""

from __future__ import annotations

from typing import Final

import numpy as np

from entropick_sampler.strategy import Strategy

from ..engine.types import StepReport
from .families import ROWS, SHORT, Families
from .waiting import TokenBatch

STRATEGY_LABELS: Final[dict[Strategy | None, str]] = {
    None: "none",
    **{strategy: strategy.label for strategy in Strategy},
}
"""the value of the label ``strategy``; none: the policy was off"""
_LABELS: Final = tuple(STRATEGY_LABELS.values())


class StepMetrics:
    """The counters and histograms of engine steps."""

    def __init__(self, families: Families) -> None:
        self._model_name = ""
        counter = families.counter
        self._tokens = counter(
            "tokens",
            "Tokens by the strategy that picked them (none: the policy was off).",
            "strategy",
            "forced",
        )
        self._generation_tokens = counter("generation_tokens", "Tokens that the engine generated.")
        self._collapses = counter(
            "head_collapses",
            "Collapses of attention: drops of a head's entropy from a token to the next, over all heads of "
            "the replies whose genuineness is watched.",
        )
        self._prefix_queries = counter(
            "prefix_cache_queries", "Prompt tokens that were looked up in the KV cache."
        )
        self._prefix_hits = counter("prefix_cache_hits", "Prompt tokens that were found in the KV cache.")
        self._preemptions = counter(
            "num_preemptions", "Times that a sequence gave its KV cache blocks up and waited again."
        )
        self._rollouts = counter(
            "branch_rollouts",
            "Times that branches were rolled out and one kept (first: the one without branching; other).",
            "kept",
        )
        self._branch_tokens = counter("branch_tokens", "Tokens of branches that were not kept.")
        self._step = families.batched_histogram("engine_step_seconds", "Duration of an engine step.", SHORT)
        self._step_tokens = families.batched_histogram(
            "iteration_tokens",
            "Tokens of a step: those that it generated and those of the prompts that began in it and that "
            "the KV cache lacked.",
            ROWS,
        )

    def bind(self, model_name: str) -> None:
        """Names the model, and begins every series at 0."""
        self._model_name = model_name
        for strategy in STRATEGY_LABELS.values():
            self._tokens.labels(model_name, strategy, "false")
        self._tokens.labels(model_name, Strategy.CLARIFY.label, "true")
        for kept in ("first", "other"):
            self._rollouts.labels(model_name, kept)

    def count(self, batch: TokenBatch) -> None:
        """Counts some tokens."""
        name = self._model_name
        kinds = np.bincount(2 * batch.strategies + batch.forced, minlength=2 * len(STRATEGY_LABELS))
        for place in np.flatnonzero(kinds):
            strategy, forced = divmod(int(place), 2)
            labels = name, _LABELS[strategy], "true" if forced else "false"
            self._tokens.labels(*labels).inc(float(kinds[place]))
        self._generation_tokens.labels(name).inc(len(batch.strategies))
        self._collapses.labels(name).inc(batch.collapsed)

    def on_step(self, report: StepReport, tokens: int) -> None:
        """Counts one engine step, which brought so many ``tokens``."""
        name = self._model_name
        if report.duration > 0:
            # a report without one tells of cancels and refusals between two steps, or of a step that failed
            self._step.observe(report.duration)
            self._step_tokens.observe(tokens + report.prefix_queries - report.prefix_hits)
        if report.prefix_queries:
            self._prefix_queries.labels(name).inc(report.prefix_queries)
            self._prefix_hits.labels(name).inc(report.prefix_hits)
        for verdict in report.verdicts:
            self._rollouts.labels(name, "other" if verdict.kept else "first").inc()
            self._branch_tokens.labels(name).inc(verdict.tokens)
        if report.preempted:
            self._preemptions.labels(name).inc(len(report.preempted))
