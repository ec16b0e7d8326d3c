"""More connections than there may be: nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.connections import limits
from entropick_server.connections.limits import ConnectionLimits
from entropick_server.connections.table import Phase
from entropick_server.settings import Settings, SettingsError

from .support import BODY, CHAT, Peer, ask, chat, code_of, listening, request, until


async def test_idle_connections_give_way_the_oldest_first(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(engine, max_connections=8) as (server, port):
        idle = [await Peer.to(port) for _ in range(30)]
        await until(lambda: server.connections.count(Phase.HEADERS) == 8)
        assert (await ask(port, chat()))[0] == 200
        # the eight newest were there, and the request took the place of the oldest of these
        assert [await peer.rest(0.5) if n < 23 else None for n, peer in enumerate(idle)][:23] == [b""] * 23
        for peer in idle[23:]:
            peer.writer.write(request())
            assert (await peer.answer())[0] == 200
        for peer in idle:
            peer.close()
        await until(lambda: len(server.connections) == 0)
        await until(lambda: "closed for a new one" in caplog.text)
    lines = [record for record in caplog.records if "closed for a new one" in record.getMessage()]
    assert 1 <= len(lines) <= 3


async def test_a_head_that_is_not_whole_gives_way_before_an_idle_client_that_asked(engine: Any) -> None:
    async with listening(engine, max_connections=4) as (server, port):
        known = await Peer.to(port, request())
        assert (await known.answer())[0] == 200
        strangers = [await Peer.to(port, b"GET /health HTTP/1.1\r\n") for _ in range(10)]
        await until(lambda: server.connections.count(Phase.HEADERS) == 3)
        assert (await ask(port))[0] == 200
        known.writer.write(request())
        assert (await known.answer())[0] == 200
        for peer in [known, *strangers]:
            peer.close()


async def test_requests_that_run_do_not_give_way(engine: Any) -> None:
    engine.delay = 0.02
    async with listening(engine, max_connections=3) as (server, port):
        running = [asyncio.create_task(ask(port, chat())) for _ in range(3)]
        await until(lambda: server.connections.count(Phase.ANSWER) == 3)
        status, body = await ask(port)
        assert (status, code_of(body)) == (503, "too_many_connections")
        assert [status for status, _ in await asyncio.gather(*running)] == [200] * 3
        assert (await ask(port))[0] == 200


def test_the_limit_leaves_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def soft(files: int) -> None:
        monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (files, files))

    soft(1024)
    assert ConnectionLimits.of(Settings()).connections == 1024 - 192
    assert ConnectionLimits.of(Settings(max_connections=832)).connections == 832
    with pytest.raises(SettingsError, match=r"max_connections: 833 .* limit of 1024 leaves them \(832\)"):
        ConnectionLimits.of(Settings(max_connections=833))
    soft(64)
    assert ConnectionLimits.of(Settings()).connections == 32
    soft(resource.RLIM_INFINITY)
    assert ConnectionLimits.of(Settings()).connections == 4096


def test_the_limit_of_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (1024, 3000))
    monkeypatch.setattr(limits.resource, "setrlimit", lambda _, both: told.append(both))
    limits.raise_file_limit(None)
    limits.raise_file_limit(2000)
    limits.raise_file_limit(500)
    assert told == [(3000, 3000), (2192, 3000)]


class Process:
    """A server in a process that may open few files."""

    def __init__(self, files: int, taken: int, log: Path) -> None:
        script = Path(__file__).with_name("serve_fake.py")
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(script), "--files", str(files), "--taken", str(taken), "--port", "0"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 300
        while "\nready:" not in self.log and time.monotonic() < end:
            time.sleep(0.05)
        self.port = int(self.log.split("listens on http://127.0.0.1:")[1].split()[0])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


@pytest.mark.parametrize(
    ("files", "taken", "idle"),
    [
        # the limit of connections holds
        (1024, 0, 1100),
        # so many descriptors are in use elsewhere that there are fewer than the limit of connections
        (256, 180, 200),
    ],
)
def test_idle_sockets_do_not_use_up_the_descriptors(
    files: int, taken: int, idle: int, tmp_path: Path
) -> None:
    """1,100 idle sockets without a key stopped every client, and wrote 160 MB of tracebacks in 40 s."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < idle + 200:
        pytest.skip("this test itself may not open that many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, idle + 200), hard))
    sockets: list[socket.socket] = []
    try:
        with Process(files, taken, tmp_path / "log") as server:
            before = len(server.log)
            address = "127.0.0.1", server.port
            sockets += [socket.create_connection(address, 10) for _ in range(idle)]
            url = f"http://127.0.0.1:{server.port}"
            for _ in range(5):
                # each over a connection of its own
                answer = httpx.post(url + CHAT, json=BODY, timeout=10)
                assert answer.status_code == 200
            held = len(os.listdir(f"/proc/{server.process.pid}/fd"))
            assert held <= files
            assert len(server.log) - before < 5_000
            for one in sockets:
                one.close()
        assert server.process.returncode == 0
        assert "Traceback" not in server.log
        assert "connections: " in server.log
    finally:
        for one in sockets:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_refusals_are_told_once_a_second(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with listening(engine, max_connections=1) as (server, _):
        for _ in range(10_000):
            server.connections.notes.count("refused")
        await until(lambda: "10000 refused" in caplog.text)
        server.connections.notes.count("refused")
        await asyncio.sleep(0.3)
        assert caplog.text.count("refused") == 1
