"""The vLLM engine, as the HTTP side sees it: one AsyncLLM, driven from the asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from safetensors import safe_open

from entropick_sampler.profile import Profile
from entropick_sampler.step import SamplerRows

from ..base import Calibrator, EngineDeadError, EngineError, ModelLoadError, QueueFullError, Tokenizer
from ..loader import eos_token_ids, generation_defaults
from ..profiles import cached_profile_path, check_layers, default_cache, find_profile
from ..types import (
    EngineLoad,
    EngineOptions,
    FinishReason,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
)
from . import launch
from .chain import Chain
from .load import Reporter, SchedulerLoad
from .pieces import DEAD, VllmPieces
from .side_channel import Inbox
from .wire import plain_profile

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.5


class VllmEngine:
    """Implements :class:`~..base.Engine` on vLLM."""

    def __init__(
        self,
        options: EngineOptions,
        arguments: Sequence[str] = (),
        calibrator: Calibrator | None = None,
        profile_cache: Path | None = None,
    ) -> None:
        """``arguments``: vLLM's own, as on its command line; the rest as for the embedded engine."""
        self._options = options
        self._arguments = tuple(arguments)
        self._calibrator = calibrator
        self._profile_cache = profile_cache or default_cache()
        self._scheduler = SchedulerLoad()
        self._reporter = Reporter(self.load)
        self._source: launch.Source | None = None
        self._info: ModelInfo | None = None
        self._profile: Profile | None = None
        self._llm: Any = None
        self._inbox: Inbox | None = None
        self._folder: Path | None = None
        self._pieces: VllmPieces | None = None
        self._slots: dict[str, int] = {}
        self._groups: dict[str, str] = {}
        self._free: list[int] = []
        self._limit = 0
        self._started = self._alive = self._ready = False
        self._watcher: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        """What is served; raises EngineDeadError before start()."""
        if self._info is None:
            raise EngineDeadError("the engine has not been started")
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; raises EngineDeadError before start()."""
        return self._read.tokenizer

    @property
    def model_hash(self) -> str:
        """Digest of the weights, for a profile's provenance; raises EngineDeadError before start()."""
        return self._read.model_hash

    @property
    def profile(self) -> Profile | None:
        """The calibration profile in force."""
        return self._profile

    @property
    def ready(self) -> bool:
        """True between start() and close() while vLLM is alive."""
        return self._ready and self._alive

    async def start(self) -> None:
        """Load, calibrate if need be; raises ModelLoadError."""
        if self._started:
            raise EngineError("an engine is started once; build another one")
        self._started = True
        try:
            await self._open()
            if self._profile is None and self._options.calibrate and self._calibrator is not None:
                await self._calibrate(self._calibrator)
        except BaseException:
            await self.close()
            raise
        self._ready = True

    async def close(self) -> None:
        """Stop vLLM; open streams end with EngineDeadError. Harmless when called again."""
        self._ready = self._alive = False
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
            self._watcher = None
        if self._llm is not None:
            llm, self._llm = self._llm, None
            if llm.output_handler is not None:
                # it would take the shutdown for a death
                llm.output_handler.cancel()
                await asyncio.wait({llm.output_handler})
            await asyncio.to_thread(llm.shutdown)
        if self._inbox is not None:
            await self._inbox.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """Stream a request's outputs; leaving the iterator early cancels the request.

        Raises QueueFullError, EngineDeadError, and EngineError for a request id that is in use.
        """
        name = request.request_id
        if not self._alive or self._pieces is None:
            raise EngineDeadError("the engine is not running" if self._llm is None else DEAD)
        if name in self._slots:
            raise EngineError(f"request id {name!r} is in use")
        # the choices of one prompt wait as one request
        waiting = {self._groups.get(other, other) for other, slot in self._slots.items() if slot < 0}
        running = sum(slot >= 0 for slot in self._slots.values())
        if running + len(waiting) >= self._limit + self._options.max_queue and request.group not in waiting:
            raise QueueFullError("The waiting queue is full; try again later.")
        problem = self._problem(request)
        if problem is not None:
            output = RequestOutput(name, (), FinishReason.ERROR, problem)
            self._reporter.add(output, -1, [])
            yield output
            return
        self._slots[name] = -1
        if request.group is not None:
            self._groups[name] = request.group
        room = self.info.max_model_len - len(request.prompt_token_ids)
        wanted = len(request.forced_token_ids) or request.sampling.max_tokens
        chain = Chain(request, min(room, wanted), self._pieces, self._read.tokenizer)
        ended = False
        try:
            async with aclosing(chain.run()) as outputs:
                async for output in outputs:
                    self._begin(request, output, chain)
                    ended = output.finish_reason is not None
                    self._reporter.add(output, self._slots[name], chain.verdicts, chain.preempted)
                    chain.preempted = 0
                    yield output
        except EngineDeadError:
            self._alive = False
            raise
        finally:
            slot = self._slots.pop(name)
            self._groups.pop(name, None)
            if slot >= 0:
                self._free.append(slot)
            if not ended:
                self._reporter.add(RequestOutput(name, (), FinishReason.CANCELLED), slot, [])

    def load(self) -> EngineLoad:
        """The gauges that vLLM told last."""
        return self._scheduler.now(idle=not self._slots)

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Call ``listener`` in the event loop with what one turn of it brought."""
        self._reporter.subscribe(listener)

    def _begin(self, request: Request, output: RequestOutput, chain: Chain) -> None:
        """A request's first output: it has a place in the running set from now on."""
        if self._slots[request.request_id] >= 0 or not output.tokens:
            return
        self._slots[request.request_id] = self._free.pop() if self._free else self._limit - 1
        self._reporter.began(
            request.request_id,
            time.monotonic() - request.arrival if chain.waited is None else chain.waited,
            len(request.prompt_token_ids),
            output.cached_tokens,
        )

    def _problem(self, request: Request) -> str | None:
        """Why a request can never run."""
        size = self.info.vocab_size
        for kind, ids in (("prompt", request.prompt_token_ids), ("forced", request.forced_token_ids)):
            if ids and not (min(ids) >= 0 and max(ids) < size):
                return f"{kind} token ids must be 0 to {size - 1}"
        prompt, longest = len(request.prompt_token_ids), self.info.max_model_len
        if not prompt:
            return "the prompt is empty"
        if prompt >= longest:
            return f"the prompt has {prompt} tokens; with one of reply the context holds {longest}"
        if not request.forced_token_ids and request.sampling.max_tokens < 1:
            return "max_tokens must be at least 1"
        if not -(1 << 63) <= request.sampling.seed < 1 << 63:
            return "seed must fit into 64 bits"
        try:
            SamplerRows.build([(request.sampling, request.policy)], self._profile)
        except ValueError as error:
            return str(error)
        return None

    async def _open(self) -> None:
        options = self._options
        self._source = source = await asyncio.to_thread(launch.read_source, options)
        arguments, config = await asyncio.to_thread(launch.build_config, options, source, self._arguments)
        profile = None
        if options.use_profile:
            profile = find_profile(
                options.profile, source.folder, self._profile_cache, source.model_hash, source.layers
            )
        self._llm = await asyncio.to_thread(launch.start, config, arguments, self._scheduler.logger)
        self._folder = Path(tempfile.mkdtemp(prefix="entropick-"))
        address = f"ipc://{self._folder}/figures"
        self._inbox = Inbox(address, self._ask)
        self._inbox.open()
        await self._tell("entropick_open", address, plain_profile(profile))
        self._profile = profile
        self._info = self._describe(source, config)
        self._scheduler.pages_total = int(config.cache_config.num_gpu_blocks or 0)
        self._limit = int(config.scheduler_config.max_num_seqs)
        self._free = list(reversed(range(self._limit)))
        self._pieces = VllmPieces(self._llm, self._inbox, source.layers)
        self._alive = True
        self._watcher = asyncio.create_task(self._watch(self._llm))

    async def _watch(self, llm: Any) -> None:
        """Notice a death while nothing runs, so that /health tells it."""
        while self._alive:
            await asyncio.sleep(_WATCH_SECONDS)
            if llm.errored:
                _log.error("vLLM's engine died")
                self._alive = False

    async def _ask(self, key: str) -> list[list[bytes]]:
        found = await self._llm.collective_rpc("entropick_take", args=(key,))
        return [[bytes(part) for part in message] for messages in found for message in messages]

    async def _tell(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._llm.collective_rpc(method, args=arguments)
        except Exception as error:
            raise ModelLoadError(f"vLLM's workers do not answer {method}: {error}") from error

    def _describe(self, source: launch.Source, config: Any) -> ModelInfo:
        options, text = self._options, source.config.get_text_config()
        folder = source.folder.resolve().name if Path(options.model).is_dir() else options.model
        return ModelInfo(
            name=options.served_model_name or folder,
            source=options.model,
            architecture=str(source.config.model_type),
            max_model_len=int(config.model_config.max_model_len),
            vocab_size=int(text.vocab_size),
            eos_token_ids=eos_token_ids(source.generation, source.config),
            monitored_layers=source.layers,
            parameters=_parameters(source.folder),
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            device=str(config.device_config.device_type),
            defaults=generation_defaults(source.generation),
            created=int(time.time()),
        )

    async def _calibrate(self, calibrator: Calibrator) -> None:
        profile = await calibrator(self)
        check_layers(profile, self.info.monitored_layers, "from calibration")
        path = cached_profile_path(self._profile_cache, self.model_hash, self.info.monitored_layers)
        try:
            profile.save(path)
        except OSError as error:
            _log.warning("the profile cannot be kept as %s, the next start calibrates again: %s", path, error)
        await self._tell("entropick_use_profile", plain_profile(profile))
        self._profile = profile

    @property
    def _read(self) -> launch.Source:
        if self._source is None:
            raise EngineDeadError("the engine has not been started")
        return self._source


def _parameters(folder: Path) -> int:
    """Numbers in the safetensors files, from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total
