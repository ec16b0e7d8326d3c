"""The gauges of vLLM's scheduler."""

from __future__ import annotations

from typing import Any

from ..types import EngineGauges


class SchedulerGauges:
    """The newest statistics of vLLM's scheduler, which AsyncLLM hands to a stat logger."""

    def __init__(self) -> None:
        self.blocks_total = 0
        self._running = self._waiting = self._used = 0

    def logger(self, config: Any, engine_index: int = 0) -> Any:
        """Makes the stat logger of an engine core, as AsyncLLM asks for it."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        gauges = self

        class Logger(StatLoggerBase):
            """A stat logger that keeps the scheduler's numbers."""

            def __init__(self) -> None:
                """Prepares nothing."""

            def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
                """Keeps the statistics of an engine core's step."""
                if scheduler_stats is not None:
                    gauges.record(scheduler_stats)

            def log_engine_initialized(self) -> None:
                """Logs nothing."""

        return Logger()

    def record(self, stats: Any) -> None:
        """Keeps the statistics of a step."""
        self._running, self._waiting = stats.num_running_reqs, stats.num_waiting_reqs
        self._used = round(stats.kv_cache_usage * self.blocks_total)

    def now(self, idle: bool) -> EngineGauges:
        """Returns the gauges. ``idle``: nothing runs, which vLLM does not tell after the last step."""
        if idle:
            return EngineGauges(0, 0, 0, self.blocks_total)
        return EngineGauges(self._running, self._waiting, self._used, self.blocks_total)
