"""Running the app: one uvicorn process that drains on SIGTERM and ends when the model cannot be loaded."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .app import create_app
from .engine.base import Engine
from .settings import Settings
from .state import ServerState

_log = logging.getLogger(__name__)
_BACKSTOP = 5
"""seconds for connections to end after the engine was closed"""


class DrainingServer(uvicorn.Server):
    """On the first signal: refuse new requests, let the running ones finish, then stop; on the second: stop.

    The listening socket stays open while draining, so that new requests get their 503 and a health check
    sees it.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self.load_error: BaseException | None = None
        self._state = state
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._url: str | None = None
        self._loaded = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.should_exit:
            # uvicorn leaves at once where it is to end before it has begun: the socket is ours to close
            await self.shutdown(sockets)
            return
        for server in self.servers:
            for listening in server.sockets:
                self._url = _url(listening.getsockname())
                print(
                    f"entropick listens on {self._url} (the model is loading; "
                    f"{self._url}/health says when it is ready)",
                    flush=True,
                )
            break
        self._greet()

    def loaded(self) -> None:
        """The model is loaded: say what is served, and how to try it."""
        self._loaded = True
        self._greet()

    def _greet(self) -> None:
        # a small model may be loaded before the socket listens
        if not self._loaded or self._url is None:
            return
        print(f"ready: {self._state.served}")
        key = " -H 'Authorization: Bearer '$ENTROPICK_API_KEY" if self._state.settings.api_key else ""
        print(
            f"try: curl {self._url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
            """-d '{"messages": [{"role": "user", "content": "Hello"}]}'""",
            flush=True,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler. The signal is not recorded, so the process ends with exit code 0."""
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
        """The model cannot be loaded: stop."""
        self.load_error = error
        self.should_exit = True


def build_server(engine: Engine, settings: Settings) -> DrainingServer:
    """The server, not yet running."""

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
    """Serve until a signal comes; returns why the model could not be loaded, None where it was."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    server = build_server(engine, settings)
    server.run()
    return server.load_error


def _url(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
