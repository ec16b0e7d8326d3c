"""The engine's thread: it owns every tensor, takes commands from a queue and reports to the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from entropick_sampler.profile import Profile

from ..base import EngineError
from ..profiles import find_profile
from ..types import EngineLoad, EngineOptions, ModelInfo, Request, StepReport
from .core import EngineCore
from .cpu_threads import default_threads
from .loader import Loaded, load_model
from .startup import build

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Add:
    """Queue a request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class UseProfile:
    """Serve with another profile."""

    profile: Profile


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread."""


Command = Add | Cancel | UseProfile | Stop


@dataclass(frozen=True, slots=True)
class Served:
    """What the loop learns when the model is up."""

    loaded: Loaded
    info: ModelInfo
    profile: Profile | None


class Listener(Protocol):
    """What the thread tells; every method is called in the event loop."""

    def on_report(self, report: StepReport) -> None:
        """A step, or what happened between two."""

    def on_refused(self, request_id: str, error: EngineError) -> None:
        """A request was not taken."""

    def on_death(self, reason: str) -> None:
        """Nothing will come any more."""


class EngineThread:
    """Start with :meth:`start`, talk through :meth:`send`, end with a Stop command and :meth:`join`."""

    def __init__(self, options: EngineOptions, profile_cache: Path, listener: Listener) -> None:
        self._options = options
        self._profile_cache = profile_cache
        self._listener = listener
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.load = EngineLoad(0, 0, 0, 0)
        """the gauges after the last step or command"""

    def start(self) -> asyncio.Future[Served]:
        """Begin to load; the future fails with what loading raises. Call it in the event loop."""
        loop = asyncio.get_running_loop()
        served: asyncio.Future[Served] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, served), name="entropick-engine", daemon=True
        )
        self._thread.start()
        return served

    def send(self, command: Command) -> None:
        """Queue a command; it is carried out before the next step."""
        self._commands.put(command)

    async def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop, served: asyncio.Future[Served]) -> None:
        with torch.inference_mode():
            try:
                core, what = self._open()
            except Exception as error:  # noqa: BLE001 - the top of the thread: start() raises it
                _call(loop, _fail, served, error)
                return
            _call(loop, _settle, served, what)
            try:
                self._serve(core, loop)
            except Exception as error:  # noqa: BLE001 - the top: nobody else could tell the open streams
                _log.exception("the engine died")
                _call(loop, self._listener.on_death, f"the engine died: {error}")

    def _open(self) -> tuple[EngineCore, Served]:
        torch.set_num_threads(self._options.threads or default_threads())
        loaded = load_model(self._options)
        profile = None
        if self._options.use_profile:
            profile = find_profile(
                self._options.profile,
                loaded.folder,
                self._profile_cache,
                loaded.model_hash,
                loaded.info.monitored_layers,
            )
        core = build(loaded, self._options, profile)
        if core.info.max_model_len < loaded.info.max_model_len:
            _log.warning(
                "the KV cache holds %d tokens, so that is max_model_len, not %d; raise kv_cache_bytes",
                core.info.max_model_len,
                loaded.info.max_model_len,
            )
        self.load = core.load()
        return core, Served(loaded, core.info, profile)

    def _serve(self, core: EngineCore, loop: asyncio.AbstractEventLoop) -> None:
        while self._take_commands(core, loop):
            report = core.report_between() if core.idle else self._step(core)
            self.load = core.load()
            if report is not None:
                _call(loop, self._listener.on_report, report)

    def _step(self, core: EngineCore) -> StepReport:
        try:
            return core.step()
        except torch.AcceleratorError:
            # a device that failed once fails every later call: let the engine die
            raise
        except Exception:  # noqa: BLE001 - whatever a step trips over, only its requests end
            _log.exception("a step failed")
            return core.fail_step()

    def _take_commands(self, core: EngineCore, loop: asyncio.AbstractEventLoop) -> bool:
        """Carry out what is queued; waits for a command where there is nothing to run. False: stop."""
        wait = core.idle
        while wait or not self._commands.empty():
            wait = False
            match self._commands.get():
                case Add(request):
                    try:
                        core.add(request)
                    except EngineError as error:
                        _call(loop, self._listener.on_refused, request.request_id, error)
                case Cancel(request_id):
                    core.cancel(request_id)
                case UseProfile(profile):
                    core.set_profile(profile)
                case Stop():
                    return False
        return True


def _settle(future: asyncio.Future[Served], served: Served) -> None:
    if not future.done():
        future.set_result(served)


def _fail(future: asyncio.Future[Served], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Run something in the loop, if the loop is still there: it may have been closed before the engine."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        _log.debug("the event loop is closed; a report was dropped")
