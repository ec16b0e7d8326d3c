"""The process: a real socket on loopback, draining on SIGTERM, ending when the model cannot be loaded."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_pico import model_path
from entropick_sampler.profile import PROFILE_FILE
from entropick_server.engine.base import ModelLoadError
from entropick_server.serve import DrainingServer, build_server, serve
from entropick_server.settings import Settings, SettingsError

BODY = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"
Start = Callable[..., AbstractAsyncContextManager[tuple[DrainingServer, httpx.AsyncClient]]]


@asynccontextmanager
async def listening(engine: Any, **given: Any) -> AsyncIterator[tuple[DrainingServer, httpx.AsyncClient]]:
    server = build_server(engine, Settings(port=0, log_level="critical", **given))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(5):
        while not server.started or not engine.ready:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield server, client
    server.should_exit = True
    await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_answer_over_a_socket(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(engine) as (_, client):
        answer = await client.post(CHAT, json=BODY)
        assert answer.json()["choices"][0]["message"]["content"] == engine.text
    said = capsys.readouterr().out
    assert str(client.base_url).rstrip("/") in said
    assert "curl" in said


async def test_what_is_said_when(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    engine.load_gate.clear()
    server = build_server(engine, Settings(port=0, log_level="critical"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    said = capsys.readouterr().out
    assert "the model is loading" in said
    assert "curl" not in said
    engine.load_gate.set()
    await until(lambda: engine.ready)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    said = capsys.readouterr().out
    assert said.splitlines()[0] == (
        "ready: fake (Fake, 1 parameters, float32, cpu, context 256), "
        "policy entropix, preset seed, profile none"
    )
    url = r"http://127\.0\.0\.1:\d+"
    opened = rf"open: ({url})/ in a browser, or run: entropick chat --url \1"
    assert re.fullmatch(opened, said.splitlines()[1])
    assert said.splitlines()[2].startswith("try: curl http://127.0.0.1:")
    server.should_exit = True
    await asyncio.wait_for(task, 10)


async def test_sigterm_drains(engine: Any) -> None:
    engine.delay = 0.02
    async with listening(engine) as (server, client):
        running = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}))
        await until(lambda: engine.running)
        server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0.05)
        # a new connection still gets an answer, which says no
        refused = await client.post(CHAT, json=BODY)
        assert refused.status_code == 503
        assert (await client.get("/health")).status_code == 503
        assert "data: [DONE]" in (await running).text
        await until(lambda: server.should_exit)
    assert not engine.ready


async def test_the_drain_has_an_end(engine: Any) -> None:
    engine.delay = 0.2
    async with listening(engine, drain_seconds=0.1) as (server, client):
        running = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}))
        await until(lambda: engine.running)
        server.handle_exit(signal.SIGTERM, None)
        assert "engine_stopped" in (await running).text
        await until(lambda: server.should_exit)


async def test_a_second_signal_ends_the_drain(engine: Any) -> None:
    engine.delay = 0.1
    async with listening(engine) as (server, client):
        running = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}))
        await until(lambda: engine.running)
        server.handle_exit(signal.SIGINT, None)
        await asyncio.sleep(0.01)
        server.handle_exit(signal.SIGINT, None)
        assert "[DONE]" not in (await running).text


async def test_a_closed_connection_cancels(engine: Any) -> None:
    engine.delay = 0.05
    async with listening(engine) as (_, client):
        async with client.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
            async for _line in answer.aiter_lines():
                break
            assert engine.running
        await until(lambda: not engine.running)
        waiting = asyncio.create_task(client.post(CHAT, json=BODY))
        await until(lambda: engine.running)
        waiting.cancel()
        await until(lambda: not engine.running)


@pytest.mark.parametrize(
    "headers", [b"X-Big: " + b"x" * (1 << 20), b"\r\n".join(b"X-%d: y" % n for n in range(10_000))]
)
async def test_large_headers_are_refused(engine: Any, headers: bytes) -> None:
    async with listening(engine) as (_, client):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
        status = await asyncio.wait_for(reader.readline(), 2)
        assert status.split()[1] in (b"400", b"431")
        writer.close()
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_cap_over_a_socket(engine: Any, chunked: bool) -> None:
    """The client is still sending when the server knows: it must find the answer, not a broken pipe."""
    size = 4 << 20  # more than the buffers of two sockets

    def post(url: httpx.URL) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=10)
        try:
            body: Any = (b" " * 65_536 for _ in range(size >> 16)) if chunked else b" " * size
            headers = {"Content-Type": "application/json"}
            connection.request("POST", CHAT, body, headers, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    async with listening(engine, max_body_bytes=1 << 20) as (_, client):
        for _ in range(3):
            status, told = await asyncio.to_thread(post, client.base_url)
            assert (status, told["error"]["code"]) == (413, "body_too_large")
        headers = {"Content-Type": "application/json"}
        assert (await client.post(CHAT, content=b" " * size, headers=headers)).status_code == 413
        assert (await client.post(CHAT, json=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHAT, {"Content-Type": "application/json"}, 401),
        (CHAT, {"Content-Type": "text/plain", "Authorization": "Bearer k"}, 415),
        ("/nope", {"Authorization": "Bearer k"}, 404),
        ("/health", {}, 405),
    ],
)
async def test_refusals_without_a_look_at_a_large_body(
    engine: Any, path: str, headers: dict[str, str], status: int
) -> None:
    def post(url: httpx.URL) -> int:
        connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=10)
        try:
            connection.request("POST", path, b" " * (4 << 20), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    async with listening(engine, api_key="k") as (_, client):
        assert await asyncio.to_thread(post, client.base_url) == status


def test_a_model_that_cannot_be_loaded_ends_the_process(
    engine: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine.load_error = ModelLoadError("no weights here")
    error = serve(engine, Settings(port=0, log_level="error"))
    assert str(error) == "no weights here"
    # the command line says it, once
    assert "no weights here" not in caplog.text
    said = capsys.readouterr()
    assert "no weights here" not in said.out + said.err
    assert "curl" not in said.out


async def test_after_a_failure_of_the_server_the_next_request_is_answered(engine: Any) -> None:
    async with listening(engine) as (_, client):
        script = engine.script
        engine.script = lambda request: 1 // 0
        for stream in (False, True):
            answer = await client.post(
                CHAT, json={**BODY, "stream": stream}, headers={"X-Request-Id": "mine"}
            )
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "internal_error"
            assert answer.headers["connection"] == "close"
            assert answer.headers["x-request-id"] == "mine"
        engine.script = script
        assert (await client.post(CHAT, json=BODY)).status_code == 200


def test_an_address_that_is_taken_is_told_before_the_model_loads(engine: Any) -> None:
    """A load of half a minute ran to its end before the process ended."""
    engine.load_gate.clear()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(engine, Settings(port=port, log_level="critical"))


async def test_a_signal_while_the_model_loads_waits_for_nothing(engine: Any) -> None:
    engine.load_gate.clear()
    server = build_server(engine, Settings(port=0, log_level="critical"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    assert not server.abandoned
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(task, 10)
    assert server.abandoned
    # the load is cancelled by the one who ends the process
    await asyncio.wait_for(server.abandon(), 10)


async def test_a_signal_before_the_server_listens(engine: Any) -> None:
    engine.load_gate.clear()
    server = build_server(engine, Settings(port=0, log_level="critical"))
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(server.serve(), 10)
    assert server.abandoned
    await asyncio.wait_for(server.abandon(), 10)


def ended_by(
    number: int, start: str, sign: str, arguments: list[str], environment: dict[str, str]
) -> tuple[int, str]:
    """Exit code and output of a server that gets a signal once ``sign`` stands in its output.

    Its start would last for ever: a server that waits for it runs into the time limit.
    """
    script = Path(__file__).with_name("endless_start.py")
    command = [sys.executable, str(script), start, "--port", "0", *arguments]
    said = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    ) as process:
        try:
            assert process.stdout is not None
            seen: set[str] = set()
            for line in process.stdout:
                said += line
                seen |= {part for part in (sign, "entropick listens") if part in line}
                if len(seen) == 2:
                    break
            process.send_signal(number)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, said + rest


@pytest.mark.parametrize(
    ("start", "sign", "number"),
    [
        ("load", "reading", signal.SIGTERM),
        ("calibrate", "calibrating", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_server_that_loads_or_calibrates(
    start: str, sign: str, number: int, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "model")
    (folder / PROFILE_FILE).unlink()
    code, said = ended_by(number, start, sign, [str(folder)], {"HOME": str(tmp_path)})
    assert code == 0, said
    assert "ready:" not in said
    assert "Traceback" not in said


CHILD = """
import asyncio, multiprocessing, os, subprocess, sys, time
from entropick_server.serve import serve
from entropick_server.settings import Settings, SettingsError

def core():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("processes", os.getpid(), worker.pid, flush=True)
    worker.wait()

class Engine:
    async def start(self):
        multiprocessing.get_context("spawn").Process(target=core).start()
        await asyncio.to_thread(time.sleep, 600)
    async def close(self):
        await asyncio.Event().wait()

if __name__ == "__main__":
    serve(Engine(), Settings(port=0))
"""


def test_the_processes_of_a_load_end_with_it(tmp_path: Path) -> None:
    """As those of vLLM, whose engine core is a process with workers below it."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            below = next(line for line in lines if line.startswith("processes")).split()[1:]
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    deadline = time.monotonic() + 10
    while (alive := [pid for pid in below if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in alive:
        os.kill(int(pid), signal.SIGKILL)
    assert not alive


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
