"""The engine thread: it owns every tensor, takes commands from a queue and reports to the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from entropick_sampler.profile import Profile

from ..base import EngineError
from ..types import EngineGauges, Request, StepReport
from .core import EngineCore
from .startup import Opened, use_native

FRUITLESS_STEPS: Final = 3
"""failed steps in a row, of which none ended a request, after which the engine gives up"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Add:
    """A command to queue a request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """A command to forget a request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class UseProfile:
    """A command to serve with another profile; ``applied`` ends when the engine does, or fails."""

    profile: Profile
    applied: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class UseNative:
    """A command to load native code that another process compiled, and to serve with it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A command to end the thread."""


Command = Add | Cancel | UseProfile | UseNative | Stop


class Listener(Protocol):
    """The receiver of all that the thread has to tell; every method is called in the event loop."""

    def on_report(self, report: StepReport) -> None:
        """Takes the report of a step, or of the commands between two steps."""

    def on_refused(self, request_id: str, error: EngineError) -> None:
        """Takes the error of a request that was not taken, or could not be cancelled."""

    def on_death(self, reason: str) -> None:
        """Takes the reason why nothing will come any more."""


class EngineThread:
    """A thread that runs an engine core; it begins with :meth:`start` and ends with a Stop command."""

    def __init__(self, open_core: Callable[[], tuple[EngineCore, Opened]], listener: Listener) -> None:
        """Prepares the thread: it will call ``open_core`` once, and tell ``listener`` everything."""
        self._open_core = open_core
        self._listener = listener
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._fruitless = 0
        self.gauges = EngineGauges(0, 0, 0, 0)
        """the gauges after the last step or command"""

    def start(self) -> asyncio.Future[Opened]:
        """Begins to load; the future fails with the error of loading.

        The caller must be in the event loop.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Opened] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, opened), name="entropick-engine", daemon=True
        )
        self._thread.start()
        return opened

    def send(self, command: Command) -> None:
        """Queues a command; it is carried out before the next step."""
        self._commands.put(command)

    async def join(self) -> None:
        """Waits for the end of the thread."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[Opened]) -> None:
        with torch.inference_mode():
            try:
                core, model = self._open_core()
            except Exception as error:  # noqa: BLE001 - the top of the thread: start() raises it
                _call(loop, _fail, opened, error)
                return
            self.gauges = core.gauges()
            _call(loop, _settle, opened, model)
            died = "the engine's thread ended"
            try:
                self._serve(core, loop)
                died = ""
            except Exception as error:  # noqa: BLE001 - the top: nobody else could tell the open streams
                _log.exception("the engine died")
                died = f"the engine died: {error}"
            finally:
                # also behind what is no Exception, of which a thread ends without a word
                if died:
                    _call(loop, self._listener.on_death, died)

    def _serve(self, core: EngineCore, loop: asyncio.AbstractEventLoop) -> None:
        idle = core.idle
        while True:
            if idle or not self._commands.empty():
                if not self._take_commands(core, loop):
                    return
                idle = core.idle
            report = core.report_between() if idle else self._step(core)
            if report is not None:
                self.gauges = report.gauges
                idle = not (report.gauges.running or report.gauges.waiting)
                _call(loop, self._listener.on_report, report)

    def _step(self, core: EngineCore) -> StepReport:
        try:
            report = core.step()
        except torch.AcceleratorError:
            # a device that failed once fails every later call: let the engine die
            raise
        except Exception as error:
            _log.exception("a step failed")
            report = core.fail_step()
            if any(output.finish_reason is not None for output in report.outputs):
                self._fruitless = 0
                return report
            self._fruitless += 1
            if self._fruitless >= FRUITLESS_STEPS:
                raise EngineError(
                    f"{self._fruitless} steps in a row failed and no request could be ended for it, the last "
                    f"with {type(error).__name__}: {error}"
                ) from error
            return report
        self._fruitless = 0
        return report

    def _take_commands(self, core: EngineCore, loop: asyncio.AbstractEventLoop) -> bool:
        """Carries out the queued commands; waits for a command where there is nothing to run.

        Returns False after a Stop command.
        """
        wait = core.idle
        while wait or not self._commands.empty():
            wait = False
            command = self._commands.get()
            if isinstance(command, Stop):
                return False
            try:
                self._carry_out(core, loop, command)
            except torch.AcceleratorError:
                raise
            except EngineError as error:
                self._report_failure(loop, command, error)
            except Exception:  # noqa: BLE001 - whatever a command trips over, only its request ends
                name = type(command).__name__
                _log.exception("the command %s failed", name)
                self._report_failure(
                    loop,
                    command,
                    EngineError(f"the engine failed at the command {name}; the server's log says why"),
                )
        return True

    def _carry_out(self, core: EngineCore, loop: asyncio.AbstractEventLoop, command: Command) -> None:
        match command:
            case Add(request):
                core.add(request)
            case Cancel(request_id):
                core.cancel(request_id)
            case UseProfile(profile, applied):
                core.set_profile(profile)
                _call(loop, _settle, applied, None)
            case UseNative():
                use_native(core)

    def _report_failure(self, loop: asyncio.AbstractEventLoop, command: Command, error: EngineError) -> None:
        """Tells the sender of a command why it failed."""
        match command:
            case Add(request):
                _call(loop, self._listener.on_refused, request.request_id, error)
            case Cancel(request_id):
                _call(loop, self._listener.on_refused, request_id, error)
            case UseProfile(_, applied):
                _call(loop, _fail, applied, error)


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Calls a function in the loop, if the loop is still open: it may be closed before the engine."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        _log.debug("the event loop is closed; a report was dropped")
