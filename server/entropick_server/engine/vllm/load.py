"""What vLLM's scheduler says of its load, and one report for all outputs of a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ..types import BranchVerdict, EngineLoad, RequestOutput, StepReport


class SchedulerLoad:
    """The newest of vLLM's scheduler statistics; a factory of its stat loggers."""

    def __init__(self) -> None:
        self.pages_total = 0
        self._running = self._waiting = self._used = 0

    def logger(self, config: Any, engine_index: int = 0) -> Any:
        """What AsyncLLM calls for each of its engines."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        load = self

        class Logger(StatLoggerBase):
            """Keeps the scheduler's numbers."""

            def __init__(self) -> None:
                """Nothing to prepare."""

            def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
                """Called after every step of the engine."""
                if scheduler_stats is not None:
                    load.note(scheduler_stats)

            def log_engine_initialized(self) -> None:
                """Nothing to say."""

        return Logger()

    def note(self, stats: Any) -> None:
        """Keep the numbers of a step."""
        self._running, self._waiting = stats.num_running_reqs, stats.num_waiting_reqs
        self._used = round(stats.kv_cache_usage * self.pages_total)

    def now(self, idle: bool) -> EngineLoad:
        """The gauges; vLLM tells nothing of the step after which nothing runs, hence ``idle``."""
        if idle:
            return EngineLoad(0, 0, 0, self.pages_total)
        return EngineLoad(self._running, self._waiting, self._used, self.pages_total)


class Reporter:
    """Collects outputs and tells listeners of all that came in one turn of the event loop."""

    def __init__(self, load: Callable[[], EngineLoad]) -> None:
        self._load = load
        self._listeners: list[Callable[[StepReport], None]] = []
        self._outputs: list[tuple[RequestOutput, int]] = []
        self._queued: list[tuple[str, float]] = []
        self._verdicts: list[BranchVerdict] = []
        self._preempted: list[str] = []
        self._queries = self._hits = 0
        self._last: float | None = None
        self._planned = False

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Call ``listener`` with every report."""
        self._listeners.append(listener)

    def began(self, request_id: str, waited: float, queries: int, hits: int) -> None:
        """A request got its first token; ``hits`` of ``queries`` tokens of its prompt were in the cache."""
        self._queued.append((request_id, waited))
        self._queries += queries
        self._hits += hits
        self._plan()

    def add(
        self, output: RequestOutput, slot: int, verdicts: list[BranchVerdict], preempted: int = 0
    ) -> None:
        """An output of a request in its slot; ``verdicts`` are taken over.

        ``preempted``: how often one of its rows gave its pages up.
        """
        self._outputs.append((output, slot))
        self._preempted += [output.request_id] * preempted
        self._verdicts += verdicts
        verdicts.clear()
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._planned = False
        load, now = self._load(), time.perf_counter()
        # a step is what lies between two reports while something runs
        duration = 0.0 if self._last is None else now - self._last
        self._last = now if load.running else None
        report = StepReport(
            tuple(output for output, _ in self._outputs),
            tuple(slot for _, slot in self._outputs),
            load,
            tuple(self._queued),
            duration,
            self._queries,
            self._hits,
            tuple(self._preempted),
            tuple(self._verdicts),
        )
        self._outputs, self._queued, self._verdicts, self._preempted = [], [], [], []
        self._queries = self._hits = 0
        for listener in self._listeners:
            listener(report)
