"""The vLLM engine behind the HTTP side: an AsyncLLM, driven from the event loop and watched for its death."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile

from ..base import Calibrator, EngineDeadError, EngineError, ModelLoadError, Tokenizer
from ..profiles import default_cache, find_profile
from ..reply import check_request
from ..source import Source, read_source
from ..start import start_with_profile
from ..types import (
    EngineGauges,
    EngineOptions,
    FinishReason,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
    WatchedLayers,
)
from ..watched_layers import LayerGauges
from . import launch
from .arguments import check_options
from .chain import Chain
from .gauges import SchedulerGauges
from .reporter import Reporter
from .segments import DEAD, VllmSegments
from .slots import RequestSlots
from .worker_client import WorkerClient

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.5


class VllmEngine:
    """An :class:`~..base.Engine` on vLLM."""

    def __init__(
        self,
        options: EngineOptions,
        arguments: Sequence[str] = (),
        calibrator: Calibrator | None = None,
        profile_cache: Path | None = None,
    ) -> None:
        """Prepares an engine. ``arguments``: vLLM's own; the rest as for the embedded engine."""
        self._options = options
        self._arguments = tuple(arguments)
        self._calibrator = calibrator if options.calibrate else None
        self._profile_cache = profile_cache or default_cache()
        self._scheduler = SchedulerGauges()
        self._layers = LayerGauges()
        self._running: set[Chain] = set()
        self._reporter = Reporter(self.gauges, self._watched_layers)
        self._source: Source | None = None
        self._info: ModelInfo | None = None
        self._profile: Profile | None = None
        self._workers: WorkerClient | None = None
        self._segments: VllmSegments | None = None
        self._slots = RequestSlots(0)
        self._started = self._alive = self._ready = False
        self._death_watch: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        """Describes the model that is served. Raises EngineDeadError before start()."""
        if self._info is None:
            raise EngineDeadError("the engine has not been started")
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns the model's tokenizer. Raises EngineDeadError before start()."""
        return self._read.tokenizer

    @property
    def model_hash(self) -> str:
        """Returns the digest of the weights. Raises EngineDeadError before start()."""
        return self._read.model_hash

    @property
    def profile(self) -> Profile | None:
        """Returns the calibration profile in force."""
        return self._profile

    @property
    def ready(self) -> bool:
        """True if start() has returned, close() was not called, and vLLM is alive."""
        return self._ready and self._alive

    async def start(self) -> None:
        """Loads the model, and calibrates it where it has no profile. Raises ModelLoadError."""
        if self._started:
            raise EngineError("an engine is started once; build another one")
        self._started = True
        self._profile = await start_with_profile(
            self, self._open, self._use_profile, self._calibrator, self._profile_cache
        )
        self._ready = True

    async def close(self) -> None:
        """Stops vLLM; open streams end with EngineDeadError. Harmless when called again."""
        self._ready = self._alive = False
        if self._death_watch is not None:
            self._death_watch.cancel()
            await asyncio.wait({self._death_watch})
            self._death_watch = None
        if self._workers is not None:
            await self._workers.close()
        if self._source is not None:
            self._source.tokenizer.close()

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """Yields a request's outputs until one carries a finish reason.

        Closing the stream early cancels the request. Raises EngineDeadError when vLLM dies, or the engine is
        closed, and EngineError for a request id that is in use.
        """
        name, segments = request.request_id, self._segments
        if not self._alive or segments is None:
            running = self._workers is not None and self._workers.llm is not None
            raise EngineDeadError(DEAD if running else "the engine is not running")
        try:
            check_request(request, self.info, self._profile)
        except ValueError as error:
            output = RequestOutput(name, (), FinishReason.ERROR, str(error))
            self._reporter.add(output, -1, [])
            yield output
            return
        self._slots.enter(name)
        cuts = None if self._profile is None else self._profile.genuineness
        chain = Chain(request, self.info.max_model_len, segments, self._read.tokenizer, cuts)
        ended = False
        self._running.add(chain)
        try:
            async with aclosing(chain.run()) as outputs:
                async for output in outputs:
                    self._begin(request, output, chain)
                    ended = output.finish_reason is not None
                    self._reporter.add(output, self._slots.slot(name), chain.verdicts, chain.preempted)
                    chain.preempted = 0
                    yield output
        except EngineDeadError:
            self._alive = False
            raise
        finally:
            self._running.discard(chain)
            slot = self._slots.leave(name)
            if not ended:
                self._reporter.add(RequestOutput(name, (), FinishReason.CANCELLED), slot, [])

    def gauges(self) -> EngineGauges:
        """Returns the gauges that vLLM reported last."""
        return self._scheduler.now(idle=self._slots.idle)

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Calls ``listener`` in the event loop with a report of each turn that brought outputs."""
        self._reporter.subscribe(listener)

    def _watched_layers(self) -> WatchedLayers | None:
        """Returns the means by layer over the replies that run, at most once a second."""
        if self._info is None:
            return None
        return self._layers.now(
            self._info.monitored_layers,
            time.monotonic(),
            lambda: [chain.windows for chain in self._running if chain.windows is not None],
        )

    def _begin(self, request: Request, output: RequestOutput, chain: Chain) -> None:
        """Gives a request a slot, and reports that it runs, at its first output."""
        if self._slots.slot(request.request_id) >= 0 or not output.tokens:
            return
        self._slots.begin(request.request_id)
        self._reporter.began(
            request.request_id,
            time.monotonic() - request.arrival if chain.waited is None else chain.waited,
            len(request.prompt_token_ids),
            output.cached_tokens,
        )

    async def _open(self) -> Profile | None:
        """Loads the model and connects its workers. Returns the model's profile."""
        options = self._options
        check_options(options)
        self._source = source = await asyncio.to_thread(read_source, options)
        arguments, config = await asyncio.to_thread(launch.build_config, options, source, self._arguments)
        profile = None
        if options.use_profile:
            profile = find_profile(
                options.profile,
                source.folder,
                self._profile_cache,
                source.model_hash,
                source.monitored_layers,
            )
        self._workers = workers = WorkerClient()
        await workers.open(config, arguments, self._scheduler.logger, profile, source.monitored_layers)
        self._profile = profile
        self._info = launch.describe(options, source, config)
        self._scheduler.blocks_total = int(config.cache_config.num_gpu_blocks or 0)
        self._slots = RequestSlots(int(config.scheduler_config.max_num_seqs))
        self._segments = VllmSegments(workers, source.monitored_layers)
        self._alive = True
        self._death_watch = asyncio.create_task(self._watch(workers.llm))
        await self._warm_up()
        return profile

    async def _use_profile(self, profile: Profile) -> None:
        if self._workers is not None:
            await self._workers.use_profile(profile)

    async def _warm_up(self) -> None:
        """Draws two tokens, so that no request waits for code that compiles at its first use.

        Raises ModelLoadError where the model does not run or gives no finite logits.
        """
        request = Request(
            "warm-up",
            (0,) * min(4, self.info.max_model_len - 1),
            SamplingParams(max_tokens=2, ignore_eos=True),
            PolicyConfig(preset="seed", genuineness="scores"),
            time.monotonic(),
        )
        try:
            async for output in self.generate(request):
                if output.error is not None:
                    raise ModelLoadError(f"{self._options.model} was loaded but does not run: {output.error}")
        except EngineDeadError as error:
            raise ModelLoadError(f"{self._options.model} was loaded but does not run: {error}") from error

    async def _watch(self, llm: Any) -> None:
        """Notices a death while nothing runs, so that /health tells it."""
        while self._alive:
            await asyncio.sleep(_WATCH_SECONDS)
            if llm.errored:
                _log.error("vLLM's engine died")
                self._alive = False

    @property
    def _read(self) -> Source:
        if self._source is None:
            raise EngineDeadError("the engine has not been started")
        return self._source
