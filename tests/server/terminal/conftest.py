"""The app of the fake engine on a real socket, in a thread of its own, and servers of other kinds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from entropick_server.serve import build_server
from entropick_server.settings import Settings

Start = Callable[..., str]
MODELS = {"object": "list", "data": [{"id": "other-model"}]}


@pytest.fixture
def listen(engine: Any) -> Iterator[Start]:
    """``listen(**settings)`` serves ``engine`` and returns the base URL."""
    with contextlib.ExitStack() as stack:

        def start(**given: Any) -> str:
            server = build_server(engine, Settings(port=0, log_level="critical", **given))
            up = threading.Event()

            async def run() -> None:
                task = asyncio.create_task(server.serve())
                while not server.started or not (engine.ready or not engine.load_gate.is_set()):
                    await asyncio.sleep(0.01)
                up.set()
                await task

            thread = threading.Thread(target=asyncio.run, args=(run(),))
            thread.start()

            def end() -> None:
                server.should_exit = True
                thread.join(20)

            stack.callback(end)
            assert up.wait(20)
            port = server.servers[0].sockets[0].getsockname()[1]
            return f"http://127.0.0.1:{port}"

        yield start


class Other(BaseHTTPRequestHandler):
    """A server of OpenAI's API that knows nothing of entropick; ``script`` are the bytes of its streams."""

    script: tuple[bytes, ...] = ()
    models: Any = None
    bodies: list[dict[str, Any]]

    def do_GET(self) -> None:
        if self.path == "/v1/models" and self.models is not None:
            self._answer(200, json.dumps(self.models).encode(), "application/json")
        else:
            self._answer(404, b"<html>nothing here</html>", "text/html")

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for part in self.script:
            self.wfile.write(part)
            self.wfile.flush()

    def _answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def other() -> Iterator[Callable[..., tuple[str, list[dict[str, Any]]]]]:
    """``other(*script)`` starts such a server: its URL, and the bodies that it is sent."""
    with contextlib.ExitStack() as stack:

        def start(*script: bytes, models: Any = MODELS) -> tuple[str, list[dict[str, Any]]]:
            bodies: list[dict[str, Any]] = []
            kind = type("Handler", (Other,), {"script": script, "models": models, "bodies": bodies})
            server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()

            def end() -> None:
                server.shutdown()
                server.server_close()
                thread.join()

            stack.callback(end)
            return f"http://127.0.0.1:{server.server_address[1]}", bodies

        yield start


def sse(text: str | None = None, finish: str | None = None) -> bytes:
    """A chunk of another server's stream."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
