"""The shipped model, served by the console script in a process of its own, on a free port of loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

READY_WITHIN = 1200.0
# tests of clients, each in an environment of its own (make test-e2e)
collect_ignore = ["clients"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def serve(log: Path, *args: str, **environment: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and wait until it is ready; returns the process and its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "entropick_server.cli", "serve", "--port", str(port), *args]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
        )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return process, url
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and the exit code."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a running server with default settings."""
    process, url = serve(tmp_path_factory.mktemp("served") / "log")
    yield url
    stop(process)


@pytest.fixture
def run_server(tmp_path: Path) -> Iterator[Callable[..., tuple[str, Callable[[], int]]]]:
    """``run_server(*args, **environment)`` starts another server: its base URL, and a function that stops
    it (SIGTERM)."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*args: str, **environment: str) -> tuple[str, Callable[[], int]]:
        process, url = serve(tmp_path / f"log{len(running)}", *args, **environment)
        running.append(process)
        return url, lambda: stop(process)

    yield start
    for process in running:
        if process.poll() is None:
            stop(process)
