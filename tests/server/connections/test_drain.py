"""The end of the server: what is finished is delivered, or the exit code says that it was not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from entropick_server import cli, serve
from entropick_server.connections.table import Phase
from entropick_server.serve import DrainError

from .support import BIG, CHAT, Peer, ask, chat, code_of, listening, request, stalled, until


async def test_a_finished_answer_is_delivered_behind_the_signal(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 20 MB was cut after the eight seconds that uvicorn waited."""
    monkeypatch.setattr(serve, "_BACKSTOP", 0)
    async with listening(engine, drain_seconds=30) as (server, port):
        peer = await Peer.to(port, request("/big"))
        await until(lambda: server.connections.count(Phase.WRITING) == 1)
        server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0.5)
        assert not server.should_exit
        status, body = await ask(port, chat())
        assert (status, code_of(body)) == (503, "shutting_down")
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await peer.reader.readexactly(len(BIG)) == BIG
        await until(lambda: server.should_exit)
        assert server.cut == 0


async def test_an_answer_that_nobody_reads_is_cut_and_counted(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(engine, drain_seconds=0.4) as (server, port):
        readers = [stalled(port, request("/big")) for _ in range(2)]
        await until(lambda: server.connections.count(Phase.WRITING) == 2)
        server.handle_exit(signal.SIGTERM, None)
        await until(lambda: server.should_exit)
        assert server.cut == 2
        assert "2 answers were not delivered in time" in caplog.text
        for reader in readers:
            reader.close()


async def test_half_requests_do_not_hold_the_drain(engine: Any) -> None:
    async with listening(engine, drain_seconds=30) as (server, port):
        clients = [
            await Peer.to(port, sent) for sent in (b"", b"GET / HT", request(CHAT, b"{", 1000), request())
        ]
        assert (await clients[-1].answer())[0] == 200
        await until(lambda: server.connections.count(Phase.BODY) == 1)
        server.handle_exit(signal.SIGTERM, None)
        await until(lambda: server.should_exit)
        assert server.cut == 0
        assert [await peer.rest() for peer in clients] == [b""] * 4


def test_the_command_line_tells_a_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "serve", lambda *_: DrainError("2 answers were cut"))
    monkeypatch.setattr(cli, "serving_engine", lambda *_: None)
    assert cli.main(["serve"]) == 3
    assert "2 answers were cut" in capsys.readouterr().err


@contextmanager
def process(log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, and its port."""
    script = Path(__file__).with_name("serve_fake.py")
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, str(script), "--port", "0", *options], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 300
        while b"\nready:" not in log.read_bytes() and time.monotonic() < end:
            time.sleep(0.05)
        yield running, int(log.read_text().split("listens on http://127.0.0.1:")[1].split()[0])
    finally:
        running.kill()
        running.wait()


async def test_a_signal_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(log, "--text", "60", "--delay", "0.05") as (running, port):
        peer = await Peer.to(port, chat(stream=True))
        await peer.reader.readuntil(b"data: ")
        os.kill(running.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert (await ask(port, chat()))[0] == 503
        assert b"data: [DONE]" in await peer.rest(30)
        assert await asyncio.to_thread(running.wait, 30) == 0
        peer.close()


async def test_the_exit_code_of_a_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(log, "--text", "2000", "--delay", "0.05", "--drain-seconds", "0.5") as (running, port):
        peer = await Peer.to(port, chat(stream=True))
        await peer.reader.readuntil(b"data: ")
        os.kill(running.pid, signal.SIGTERM)
        assert b"engine_stopped" in await peer.rest(30)
        assert await asyncio.to_thread(running.wait, 30) == 3
        assert "1 answers were cut" in log.read_text()
        assert "Traceback" not in log.read_text()
        peer.close()
