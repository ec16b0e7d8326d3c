"""The log as the process writes it: over a socket, with uvicorn's own lines, none of them twice."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from entropick_server.logs.formats import LogFormat, configure_logging
from entropick_server.serve import build_server
from entropick_server.settings import Settings

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "a prompt that is nobody's business"}]}
LOGGERS = (
    "",
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "uvicorn.asgi",
    "httpx",
    "httpcore",
    "asyncio",
)
Start = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@contextmanager
def bare_logging() -> Iterator[None]:
    """Takes pytest's handlers away, and puts back what a server changes."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    loggers[0].handlers = []
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


@pytest.fixture
def start(engine: Any) -> Start:
    @asynccontextmanager
    async def started(form: LogFormat, level: Any = "info") -> AsyncIterator[httpx.AsyncClient]:
        with bare_logging():
            configure_logging(form, level)
            # the client of this test logs too
            for name in ("httpx", "httpcore", "asyncio"):
                logging.getLogger(name).setLevel("WARNING")
            settings = Settings(port=0, log_level=level, log_format=form, api_key="k")  # type: ignore[arg-type]
            server = build_server(engine, settings)
            task = asyncio.create_task(server.serve())
            async with asyncio.timeout(20):
                while not server.started or not engine.ready:
                    await asyncio.sleep(0.01)
            (bound,) = (s for listener in server.servers for s in listener.sockets)
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            headers = {"Authorization": "Bearer k"}
            async with httpx.AsyncClient(base_url=url, headers=headers) as client:
                yield client
            server.should_exit = True
            await asyncio.wait_for(task, 20)

    return started


async def provoke(client: httpx.AsyncClient, engine: Any) -> None:
    """Sends one good request, one that breaks the server, and one that no HTTP parser takes."""
    assert (await client.post(CHAT, json=BODY, headers={"X-Request-Id": "good"})).status_code == 200

    def broken(_: Any) -> Any:
        raise RuntimeError("cannot open /srv/models/secret.safetensors at 0x7f00aa11bb22 for 10.1.2.3:99")

    engine.script = broken
    answer = await client.post(CHAT, json=BODY, headers={"X-Request-Id": "bad"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        500,
        "Something went wrong in the server.",
    )

    def nonsense() -> bytes:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), 10) as plain:
            plain.sendall(b"\x1b[31m nonsense\n\n\r\n\r\n")
            return plain.recv(100)

    assert b" 400 " in await asyncio.to_thread(nonsense)


@pytest.mark.parametrize("form", ["json", "text"])
async def test_every_line_is_in_the_form(
    start: Start, engine: Any, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    async with start(form) as client:
        await provoke(client, engine)
    lines = capsys.readouterr().err.splitlines()
    for line in lines:
        assert line.isprintable()
        for hidden in ("nobody", "Traceback", "/srv", "0x7f00", "10.1.2.3", 'File "', "Bearer"):
            assert hidden not in line
    good = [line for line in lines if "good" in line]
    bad = [line for line in lines if "bad" in line and "logs.requests" not in line]
    assert len(good) == 1
    assert len([line for line in lines if f"POST {CHAT}" in line]) == 2
    # the failure is one line beside that of its request, and tells whose it is and where
    assert len(bad) == 1
    assert "RuntimeError: cannot open <path> at <address> for <address> at " in bad[0]
    assert "test_process.py:" in bad[0]
    if form == "json":
        told = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "message"} <= set(line) for line in told)
        assert [line["request_id"] for line in told if "request_id" in line] == ["good", "bad", "bad"]
        (line,) = (line for line in told if line.get("request_id") == "good")
        assert (line["key"], line["status"], line["finish_reasons"]) == ("api_key", 200, {"stop": 1})
    else:
        assert "key=api_key request_id=good client=127.0.0.1" in good[0]


async def test_debugging_has_the_trace(start: Start, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with start("text", "debug") as client:
        await provoke(client, engine)
    said = capsys.readouterr().err
    assert said.count("Traceback") == 1
    assert "/srv/models" in said
