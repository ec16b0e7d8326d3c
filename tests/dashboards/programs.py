"""The two processes of these tests, each with a free port of loopback: the server and Prometheus."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx

READY_WITHIN = 1200.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Process:
    """A process that is ready when a URL answers, and is ended with SIGTERM."""

    def __init__(self, command: list[str], log: Path, ready: str) -> None:
        self.log, self._ready = log, ready
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
            )

    def __enter__(self) -> Self:
        end = time.monotonic() + READY_WITHIN
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(self._ready, timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        self.__exit__()
        raise RuntimeError(f"{self._ready} does not answer:\n{self.log.read_text(errors='replace')[-4000:]}")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Server(Process):
    """The shipped model behind the console script."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        command = [sys.executable, "-m", "entropick_server.cli", "serve", "--port", str(port)]
        super().__init__([*command, "--log-level", "warning"], folder / "log", f"{self.url}/health")

    def page(self, accept: str = "text/plain") -> str:
        return httpx.get(f"{self.url}/metrics", headers={"Accept": accept}, timeout=60).text

    def series(self) -> int:
        """Series of the page that are not of a running choice."""
        lines = (line for line in self.page().splitlines() if line.startswith("entropick_"))
        return sum(not line.startswith("entropick_live_") for line in lines)


class Prometheus(Process):
    """Prometheus on a copy of a folder of configuration, with one target."""

    def __init__(self, program: str, configuration: Path, folder: Path, target: str, every: str = "") -> None:
        copy = folder / "configuration"
        shutil.copytree(configuration, copy)
        (copy / "targets.yml").write_text(f'- targets: ["{target}"]\n')
        file = copy / "prometheus.yml"
        if every:
            file.write_text(file.read_text().replace("scrape_interval: 5s", f"scrape_interval: {every}"))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        super().__init__(command, folder / "log", f"{self.url}/-/ready")

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60)
        found = answer.json()
        assert found["status"] == "success", (path, parameters, found)
        return found["data"]

    def values(self, expr: str, seconds: float = 240.0, step: float = 5.0) -> int:
        """How many numbers an expression has over the last seconds, NaN left out."""
        return sum(v != "NaN" for series in self.matrix(expr, seconds, step) for _, v in series["values"])

    def matrix(self, expr: str, seconds: float, step: float) -> list[dict[str, Any]]:
        now = time.time()
        window = {"start": str(now - seconds), "end": str(now), "step": str(step)}
        found: list[dict[str, Any]] = self.get("query_range", query=expr, **window)["result"]
        return found

    def newest(self, expr: str) -> float:
        """The one number that an expression has now."""
        result = self.get("query", query=expr)["result"]
        assert len(result) == 1, (expr, result)
        return float(result[0]["value"][1])

    def wait_for_scrapes(self, number: int) -> None:
        """Waits for some scrapes of the server: Prometheus finds its targets some seconds after its start."""
        end = time.monotonic() + 60
        while not (found := self.get("query", query="up[1m]")["result"]) or len(found[0]["values"]) < number:
            if time.monotonic() > end:
                raise TimeoutError("Prometheus does not scrape the server")
            time.sleep(0.1)

    def settle(self) -> None:
        """Waits until every rule was evaluated after this moment."""
        begin = time.time()
        while any(_seconds(rule["lastEvaluation"]) < begin for rule in self.rules()):
            time.sleep(0.5)

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def _seconds(text: str) -> float:
    """Unix seconds of Go's RFC 3339, which has nanoseconds; 0 for its year 1."""
    if text.startswith("0001"):
        return 0.0
    whole, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] if rest else ""
    return datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{zone or '+00:00'}").timestamp()
