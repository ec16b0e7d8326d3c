"""The embedded engine, as the HTTP side sees it: everything here runs in the asyncio loop.

Commands go to the engine's thread through a queue; after every step one ``call_soon_threadsafe`` carries a
StepReport back, from which each request's own queue is filled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from entropick_sampler.profile import Profile

from ..base import Calibrator, EngineDeadError, EngineError, Tokenizer
from ..profiles import default_cache
from ..start import start_with_profile
from ..types import EngineGauges, EngineOptions, ModelInfo, Request, RequestOutput, StepReport
from . import compiling
from .compiling import Compilation
from .startup import Opened, open_core
from .thread import Add, Cancel, EngineThread, Stop, UseNative, UseProfile


class EmbeddedEngine:
    """An :class:`~..base.Engine` on transformers' modules, with a KV cache and a scheduler of our own."""

    def __init__(
        self,
        options: EngineOptions,
        calibrator: Calibrator | None = None,
        profile_cache: Path | None = None,
    ) -> None:
        """Prepares an engine; nothing is loaded before start().

        ``calibrator`` is awaited at the first start of a model without a profile, before the engine is ready;
        its profile is kept in ``profile_cache`` (default: the user's cache folder).
        """
        self._calibrator = calibrator if options.calibrate else None
        self._profile_cache = profile_cache or default_cache()
        self._options = options
        self._compilation: Compilation | None = None
        self._thread = EngineThread(partial(open_core, options, self._profile_cache), self)
        self._streams: dict[str, asyncio.Queue[RequestOutput | EngineError]] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        """requests without a reader, until the engine thread tells their end: their id is not free before"""
        self._listeners: list[Callable[[StepReport], None]] = []
        self._opened: Opened | None = None
        self._applied: asyncio.Future[None] | None = None
        """a profile that was sent to the thread and is not in force yet"""
        self._profile: Profile | None = None
        self._started = False
        self._alive = False
        self._ready = False

    @property
    def info(self) -> ModelInfo:
        """Returns the description of the served model; raises EngineDeadError before start()."""
        return self._model.info

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns the model's tokenizer; raises EngineDeadError before start()."""
        return self._model.loaded.tokenizer

    @property
    def model_hash(self) -> str:
        """Returns the digest of weights, configuration and tokenizer, for a profile's provenance.

        Raises EngineDeadError before start().
        """
        return self._model.loaded.source.model_hash

    @property
    def profile(self) -> Profile | None:
        """Returns the calibration profile in force."""
        return self._profile

    @property
    def ready(self) -> bool:
        """True while the engine is alive between start() and close()."""
        return self._ready and self._alive

    async def start(self) -> None:
        """Loads the model in the engine's thread and calibrates it if need be; raises ModelLoadError."""
        if self._started:
            raise EngineError("an engine is started once; build another one")
        self._started = True
        self._compilation = compiling.begin(self._options)
        self._profile = await start_with_profile(
            self, self._open, self._use_profile, self._calibrator, self._profile_cache
        )
        self._ready = True
        if self._compilation is not None:
            self._compilation.when_done(partial(self._thread.send, UseNative()))

    async def close(self) -> None:
        """Stops the thread; open streams end with EngineDeadError. A second call does nothing."""
        self._ready = False
        if self._compilation is not None:
            self._compilation.stop()
        self._thread.send(Stop())
        await self._thread.join()
        if self._opened is not None:
            self._opened.loaded.tokenizer.close()
        self.on_death("the engine was stopped")

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields the outputs of a request; leaving the iterator early cancels the request.

        Raises EngineDeadError, and EngineError for a request id that is in use.
        """
        name = request.request_id
        if name in self._leaving:
            await self._leaving[name].wait()
        if not self._alive:
            raise EngineDeadError("the engine is not running")
        if name in self._streams:
            raise EngineError(f"request id {name!r} is in use")
        stream: asyncio.Queue[RequestOutput | EngineError] = asyncio.Queue()
        self._streams[name] = stream
        self._thread.send(Add(request))
        ended = False
        try:
            while not ended:
                output = await stream.get()
                if isinstance(output, EngineError):
                    ended = True
                    raise output
                ended = output.finish_reason is not None
                yield output
        finally:
            del self._streams[name]
            # the end may have arrived unread: the engine thread has then forgotten the request already
            while not ended and not stream.empty():
                unread = stream.get_nowait()
                ended = isinstance(unread, EngineError) or unread.finish_reason is not None
            if not ended and self._alive:
                self._leaving[name] = asyncio.Event()
                self._thread.send(Cancel(name))

    def gauges(self) -> EngineGauges:
        """Returns the gauges after the last step or command."""
        return self._thread.gauges

    def subscribe(self, listener: Callable[[StepReport], None]) -> None:
        """Calls ``listener`` in the event loop with every report.

        A report whose duration is 0 is not a step: it tells of cancels and refusals while nothing ran.
        """
        self._listeners.append(listener)

    def on_report(self, report: StepReport) -> None:
        """Takes a report from the engine thread and hands its outputs to their streams."""
        for output in report.outputs:
            if output.request_id in self._leaving:
                if output.finish_reason is not None:
                    self._leaving.pop(output.request_id).set()
            elif output.request_id in self._streams:
                self._streams[output.request_id].put_nowait(output)
        for listener in self._listeners:
            listener(report)

    def on_refused(self, request_id: str, error: EngineError) -> None:
        """Takes from the engine thread the error of a request that was not taken."""
        if request_id in self._leaving:
            self._leaving.pop(request_id).set()
        elif request_id in self._streams:
            self._streams[request_id].put_nowait(error)

    def on_death(self, reason: str) -> None:
        """Takes the end of the engine thread, and ends every stream with it."""
        self._alive = False
        if self._applied is not None and not self._applied.done():
            self._applied.set_exception(EngineDeadError(reason))
        for event in self._leaving.values():
            event.set()
        self._leaving.clear()
        for stream in self._streams.values():
            stream.put_nowait(EngineDeadError(reason))

    @property
    def _model(self) -> Opened:
        if self._opened is None:
            raise EngineDeadError("the engine has not been started")
        return self._opened

    async def _open(self) -> Profile | None:
        self._opened = await self._thread.start()
        self._alive = True
        return self._opened.profile

    async def _use_profile(self, profile: Profile) -> None:
        """Puts a profile into force; raises EngineError where the thread cannot."""
        if not self._alive:
            raise EngineDeadError("the engine is not running")
        self._applied = asyncio.get_running_loop().create_future()
        self._thread.send(UseProfile(profile, self._applied))
        await self._applied
