"""Runs the app in one uvicorn process, which drains on SIGTERM and ends where the model cannot be loaded.

A signal that comes while the model loads ends the process at once: loading cannot be interrupted, and there
is nothing to drain.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from .app import create_app
from .connections.arrival import Arrival
from .connections.bodies import BodyBudget
from .connections.limits import ConnectionLimits, raise_file_limit
from .connections.listener import Listener, bind
from .connections.protocol import Connection, phase_seconds
from .connections.table import ConnectionTable
from .connections.tls import tls_context
from .engine.base import Engine
from .logs.formats import configure_logging
from .output import say, settle
from .settings import Settings
from .state import ServerState

_log = logging.getLogger(__name__)
_BACKSTOP: Final = 5
"""seconds for connections to end after the engine was closed"""
_ABANDON_SECONDS: Final = 0.5
"""seconds that an engine has to close while it loads; it may be in the middle of a file"""


def freeze_start() -> None:
    """Takes all objects of the start out of the garbage collector's walks, which took a second of them."""
    gc.collect()
    gc.freeze()


class DrainError(RuntimeError):
    """An end of the server that cut answers which were not delivered yet."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that refuses new requests at the first signal and lets running requests finish.

    A second signal stops it at once. The listening socket stays open while draining, so that new requests get
    their 503 and a health check sees it. At a signal before the model is loaded the server is ``abandoned``:
    it stops without closing the engine, and the caller must end the process. ``cut``: the answers that were
    not delivered when the server ended.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        limits: ConnectionLimits,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(config)
        self.load_error: BaseException | None = None
        self.abandoned = False
        self.cut = 0
        self.connections = ConnectionTable(limits.connections, phase_seconds(limits))
        self._limits = limits
        self._tls = tls
        self._state = state
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None
        self._url: str | None = None
        self._loaded = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and prints the address. Raises SettingsError where the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        # bound before the model begins to load, and listening behind that
        bound = await bind(self.config.host, self.config.port) if sockets is None else sockets
        seconds = self._limits.header_seconds
        self._listener = Listener(bound, self._connection, self.connections, self._tls, seconds)
        self.servers = [self._listener]  # type: ignore[list-item]
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self._listener.close()
            sys.exit(STARTUP_FAILURE)
        if self.should_exit:
            # uvicorn leaves at once where it is to end before it has begun
            self._listener.close()
            if not self.force_exit:
                await self.lifespan.shutdown()
            return
        self._budget = BodyBudget(self._limits.largest_body)
        self._listener.start(self.config.backlog)
        self.started = True
        self._url = _url(bound[0].getsockname(), "http" if self._tls is None else "https")
        say(
            f"entropick listens on {self._url} (the model is loading; "
            f"{self._url}/health says when it is ready)"
        )
        self._greet()

    def _connection(self, arrival: Arrival) -> Connection:
        shared = self.connections, self._budget, self._limits
        return Connection(self.config, self.server_state, self.lifespan.state, shared, arrival)

    async def on_tick(self, counter: int) -> bool:
        """Ends the connections that are overdue, ten times a second."""
        self.connections.expire(time.monotonic())
        return await super().on_tick(counter)

    def loaded(self) -> None:
        """Prints the name of the loaded model, the address of the page, and a command to try it."""
        self._loaded = True
        freeze_start()
        self._greet()

    def _greet(self) -> None:
        # a small model may be loaded before the socket listens
        if not self._loaded or self._url is None:
            return
        say(f"ready: {self._state.served}")
        say(f"open: {self._url}/ in a browser, or run: entropick chat --url {self._url}")
        key = " -H 'Authorization: Bearer '$ENTROPICK_API_KEY" if self._state.settings.has_keys else ""
        say(
            f"try: curl {self._url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
            """-d '{"messages": [{"role": "user", "content": "Hello"}]}'"""
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal, which is not recorded, so that the process ends with an exit code of its own."""
        if not self._loaded and self.load_error is None:
            self.abandoned = self.should_exit = True
            # uvicorn then leaves without the end of the app's life, which would wait for the load
            self.force_exit = True
            return
        if self._loop is None or self._state.draining:
            self.should_exit = True
            return
        self._state.draining = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        began, seconds = time.monotonic(), self._state.settings.drain_seconds
        _log.info("draining: new requests get 503, running ones have %s s", seconds)

        def open_answers() -> int:
            # an answer is delivered when the system has taken its last byte
            return max(self._state.in_flight, self.connections.owed(began))

        while open_answers() and not self.should_exit and time.monotonic() - began < seconds:
            await asyncio.sleep(0.05)
        self.cut = open_answers()
        if self.cut:
            _log.warning("%d answers were not delivered in time and are cut", self.cut)
        await self._state.close()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the connections: idle connections at once, the others within some seconds."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        last = time.monotonic() + _BACKSTOP
        while self.server_state.connections and not self.force_exit and time.monotonic() < last:
            await asyncio.sleep(0.02)
        for held in self.connections:
            held.drop()
        await super().shutdown(sockets)

    def fail(self, error: BaseException) -> None:
        """Stops the server, because the model cannot be loaded."""
        self.load_error = error
        self.should_exit = True

    async def abandon(self) -> None:
        """Closes the engine as far as that is possible while it loads: its files, not its load."""
        try:
            async with asyncio.timeout(_ABANDON_SECONDS):
                await self._state.close()
        except TimeoutError:
            _log.info("the model was still loading; its load ends with the process")


def build_server(engine: Engine, settings: Settings) -> DrainingServer:
    """Builds a server around an engine; neither of them runs yet.

    Raises SettingsError where a certificate cannot be used, or connections need more files than there may be.
    """

    def on_failure(error: BaseException) -> None:
        server.fail(error)

    def on_ready() -> None:
        server.loaded()

    tls = tls_context(settings)
    limits = ConnectionLimits.of(settings)
    app: FastAPI = create_app(engine, settings, on_failure, on_ready)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        # the lines of uvicorn go where all others go; a request's line is ours
        log_config=None,
        access_log=False,
        # of our own, over uvicorn's for h11, which bounds the size of headers
        http=Connection,
        # there is no route for them
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_BACKSTOP,
    )
    server = DrainingServer(config, app.state.server, limits, tls)
    return server


def serve(engine: Engine, settings: Settings) -> BaseException | None:
    """Serves until a signal comes. At a signal while the model loads the process ends here.

    Returns the error where the model could not be loaded, a DrainError where answers were cut at the end, and
    None else. Raises SettingsError where the server cannot listen on its address.
    """
    # a line that cannot be written, as on a full disk, is lost without a traceback for each
    logging.raiseExceptions = False
    configure_logging(settings.log_format, settings.log_level)
    raise_file_limit(settings.max_connections)
    server = build_server(engine, settings)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve())
        if server.abandoned:
            try:
                runner.run(server.abandon())
            finally:
                _end_process()
    if server.load_error is None and server.cut:
        return DrainError(f"{server.cut} answers were cut: they were not delivered in time")
    return server.load_error


def _end_process() -> NoReturn:
    """Ends this process and the processes below it, without waiting for the threads that still load."""
    for child in multiprocessing.active_children():
        below = _descendants(child.pid) if child.pid is not None else []
        child.kill()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    logging.shutdown()
    settle()
    os._exit(0)


def _descendants(pid: int) -> list[int]:
    """Returns the ids of all processes below a process, where the system tells them (Linux)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found


def _url(address: tuple[str, int], scheme: str) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"
