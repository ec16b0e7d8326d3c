"""The shipped model, served by the console script in a process of its own, on a free port of loopback."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .serving import serve, stop

# run.py runs these, in the environments of the clients (make test-e2e)
collect_ignore = ["clients"]


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
