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
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI

from .app import create_app
from .engine.base import Engine
from .settings import Settings, SettingsError
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


class DrainingServer(uvicorn.Server):
    """A uvicorn server that refuses new requests at the first signal and lets running requests finish.

    A second signal stops it at once. The listening socket stays open while draining, so that new requests get
    their 503 and a health check sees it. At a signal before the model is loaded the server is ``abandoned``:
    it stops without closing the engine, and the caller must end the process.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self.load_error: BaseException | None = None
        self.abandoned = False
        self._state = state
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url: str | None = None
        self._loaded = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and prints the address. Raises SettingsError where the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        if sockets is None:
            await self._check_address(self._loop)
        await super().startup(sockets)
        if self.should_exit:
            # uvicorn leaves at once where it is to end before it has begun: the socket is ours to close
            await self.shutdown(sockets)
            return
        for server in self.servers:
            for listening in server.sockets:
                self._url = _url(listening.getsockname())
                print(
                    f"entropick listens on {self._url} (the model is loading; a first start compiles native "
                    f"code, for a minute or more; {self._url}/health says when it is ready)",
                    flush=True,
                )
            break
        self._greet()

    async def _check_address(self, loop: asyncio.AbstractEventLoop) -> None:
        """Binds the address once before the model begins to load, which uvicorn does behind it."""
        host, port = self.config.host, self.config.port
        try:
            bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        except OSError as error:
            raise SettingsError(f"the server cannot listen on {host}:{port}: {error}") from error
        bound.close()
        await bound.wait_closed()

    def loaded(self) -> None:
        """Prints the name of the loaded model, the address of the page, and a command to try it."""
        self._loaded = True
        freeze_start()
        self._greet()

    def _greet(self) -> None:
        # a small model may be loaded before the socket listens
        if not self._loaded or self._url is None:
            return
        print(f"ready: {self._state.served}")
        print(f"open: {self._url}/ in a browser, or run: entropick chat --url {self._url}")
        key = " -H 'Authorization: Bearer '$ENTROPICK_API_KEY" if self._state.settings.api_key else ""
        print(
            f"try: curl {self._url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
            """-d '{"messages": [{"role": "user", "content": "Hello"}]}'""",
            flush=True,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal, which is not recorded, so that the process ends with exit code 0."""
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
        _log.info(
            "draining: new requests get 503, running ones have %s s", self._state.settings.drain_seconds
        )
        try:
            async with asyncio.timeout(self._state.settings.drain_seconds):
                while self._state.in_flight and not self.should_exit:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            _log.warning("%d requests did not finish in time", self._state.in_flight)
        await self._state.close()
        self.should_exit = True

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
    """Builds a server around an engine; neither of them runs yet."""

    def on_failure(error: BaseException) -> None:
        server.fail(error)

    def on_ready() -> None:
        server.loaded()

    app: FastAPI = create_app(engine, settings, on_failure, on_ready)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        # h11 bounds the size of headers
        http="h11",
        server_header=False,
        timeout_graceful_shutdown=_BACKSTOP,
    )
    server = DrainingServer(config, app.state.server)
    return server


def serve(engine: Engine, settings: Settings) -> BaseException | None:
    """Serves until a signal comes. At a signal while the model loads the process ends here.

    Returns the error where the model could not be loaded, and None where it was. Raises SettingsError where
    the server cannot listen on its address.
    """
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    server = build_server(engine, settings)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve())
        if server.abandoned:
            try:
                runner.run(server.abandon())
            finally:
                _end_process()
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _descendants(pid: int) -> list[int]:
    """Returns the ids of all processes below a process, where the system tells them (Linux)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found


def _url(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
