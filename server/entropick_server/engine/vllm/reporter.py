"""One step report for all outputs of a turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..types import BranchVerdict, EngineGauges, RequestOutput, StepReport, WatchedLayers


class Reporter:
    """A collector of outputs, which are reported to listeners together: all of one turn of the event loop."""

    def __init__(
        self, gauges: Callable[[], EngineGauges], layers: Callable[[], WatchedLayers | None]
    ) -> None:
        """Begins without listeners. ``layers``: as in StepReport, asked for at every report."""
        self._gauges = gauges
        self._layers = layers
        self._listeners: list[Callable[[StepReport], None]] = []
        self._outputs: list[tuple[RequestOutput, int]] = []
        self._queued: list[tuple[str, float]] = []
        self._verdicts: list[BranchVerdict] = []
        self._preempted: list[str] = []
        self._queries = self._hits = 0
        self._last: float | None = None
        self._scheduled = False

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Calls ``listener`` with every report from now on."""
        self._listeners.append(listener)

    def began(self, request_id: str, waited: float, queries: int, hits: int) -> None:
        """Adds a request that got its first token after ``waited`` seconds.

        ``hits`` of the ``queries`` tokens of its prompt were in the prefix cache.
        """
        self._queued.append((request_id, waited))
        self._queries += queries
        self._hits += hits
        self._schedule()

    def add(
        self, output: RequestOutput, slot: int, verdicts: list[BranchVerdict], preempted: int = 0
    ) -> None:
        """Adds an output of a request in its slot, and moves ``verdicts`` out of the caller's list.

        ``preempted``: how often vLLM took the KV cache blocks of one of its rows away.
        """
        self._outputs.append((output, slot))
        self._preempted += [output.request_id] * preempted
        self._verdicts += verdicts
        verdicts.clear()
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._scheduled = False
        gauges, now = self._gauges(), time.perf_counter()
        # a step is what lies between two reports while something runs
        duration = 0.0 if self._last is None else now - self._last
        self._last = now if gauges.running else None
        report = StepReport(
            tuple(output for output, _ in self._outputs),
            tuple(slot for _, slot in self._outputs),
            gauges,
            tuple(self._queued),
            duration,
            self._queries,
            self._hits,
            tuple(self._preempted),
            tuple(self._verdicts),
            self._layers(),
        )
        self._outputs, self._queued, self._verdicts, self._preempted = [], [], [], []
        self._queries = self._hits = 0
        for listener in self._listeners:
            listener(report)
