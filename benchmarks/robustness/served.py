"""A server in a process of its own on loopback, with its memory, its descriptors and its log."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .wire import CHAT, Reply, ask

READY_SECONDS: Final = 600.0
"""seconds that a server has to load; a first start compiles native code"""
GOOD: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "seed": 7,
    "max_tokens": 24,
    "entropick": {"policy": "fixed"},
}
"""the request that must be served as usual, whatever came before it"""
_ESTABLISHED: Final = "01"


def free_port() -> int:
    """Returns a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Returns this process' environment without the server's settings.

    ``changes``: names to set; None removes a name.
    """
    names = {name: value for name, value in os.environ.items() if not name.startswith("ENTROPICK_")}
    # vLLM takes benchmarks/kernels.py for a package of that name and does not start
    paths = [
        path for path in names.get("PYTHONPATH", "").split(os.pathsep) if Path(path).name != "benchmarks"
    ]
    names["PYTHONPATH"] = os.pathsep.join(paths)
    for name, value in (changes or {}).items():
        if value is None:
            names.pop(name, None)
        else:
            names[name] = value
    return {"OMP_WAIT_POLICY": "PASSIVE", **names}


def serve_command(*arguments: str) -> list[str]:
    """Returns the command that serves, with the interpreter that runs this program."""
    return [sys.executable, "-m", "entropick_server.cli", "serve", *arguments]


def resident_mib(pid: int) -> float:
    """Returns the resident set of a process in MiB; 0 for a process that has ended."""
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def descendants(pid: int) -> list[int]:
    """Returns the ids of all processes below a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *descendants(child)]
    return found


class NotReadyError(RuntimeError):
    """An error of a server that did not become ready; the message has the end of its log."""


class Served:
    """A served model (the shipped one unless ``arguments`` name another), started on entering.

    ``descriptors``: the soft limit of open files of the process (``ulimit -n``).
    ``command``: another command than ``serve_command()``, which gets the arguments as that one does.
    """

    def __init__(
        self,
        *arguments: str,
        changes: Mapping[str, str | None] | None = None,
        descriptors: int | None = None,
        command: list[str] | None = None,
    ) -> None:
        self.port = free_port()
        self.key: str | None = None
        self._command = command or serve_command()
        self._arguments = ["--port", str(self.port), *arguments]
        self._environment = environment(changes)
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.NamedTemporaryFile(prefix="robustness-", suffix=".log")  # noqa: SIM115
        self._good: str | None = None

    async def __aenter__(self) -> Self:
        def limit() -> None:
            if self._descriptors is not None:
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._descriptors, hard))

        self._process = subprocess.Popen(
            [*self._command, *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            preexec_fn=limit,
        )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if (await self.ask("GET", "/health", seconds=5)).status == 200:
                return self
            await asyncio.sleep(0.2)
        self.kill()
        raise NotReadyError(f"the server did not become ready:\n{self.log()[-4000:]}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.signal(signal.SIGTERM)
            if await self.ended(60) is None:
                self.kill()
        self._log.close()

    # -- the process ---------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process. Raises RuntimeError where it was never started."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.wait()

    async def ended(self, seconds: float) -> int | None:
        """Returns the exit code, or None where the process still lives after ``seconds``."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return self.process.poll()

    def resident_mib(self, family: bool = False) -> float:
        """Returns the resident set of the process in MiB; ``family``: with the processes below it."""
        pids = [self.process.pid, *(descendants(self.process.pid) if family else ())]
        return sum(resident_mib(pid) for pid in pids)

    def descriptors(self) -> int:
        """Returns the number of open descriptors of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def connections(self) -> int:
        """Returns the number of established connections at the server's port."""
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        here = f":{self.port:04X}"
        return sum(row.split()[1].endswith(here) and row.split()[3] == _ESTABLISHED for row in rows)

    def log(self) -> str:
        """Returns what the server has written."""
        return Path(self._log.name).read_text(errors="replace")

    def log_size(self) -> int:
        """Returns the bytes that the server has written."""
        return Path(self._log.name).stat().st_size

    # -- requests ------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: Any = None, **given: Any) -> Reply:
        """Sends a request (with the key, where ``key`` is set) and returns the reply; see ``wire.ask``."""
        headers = dict(given.pop("headers", {}))
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        return await ask(self.port, method, path, body, headers=headers, **given)

    async def good(self, seconds: float = 30.0) -> bool:
        """True if the good request is served within ``seconds``, with the text it had the first time."""
        reply = await self.ask("POST", CHAT, GOOD, seconds=seconds)
        if reply.status != 200:
            return False
        text = str(reply.json()["choices"][0]["message"]["content"])
        self._good = self._good if self._good is not None else text
        return text == self._good

    async def gauge(self, name: str) -> float:
        """Returns the value of a metric without labels beside the model's name."""
        page = (await self.ask("GET", "/metrics")).text
        found = re.search(rf"^entropick_{name}(?:\{{[^}}]*\}})? (\S+)$", page, re.M)
        return float(found[1]) if found else float("nan")

    async def idle(self, seconds: float = 20.0) -> bool:
        """True if within ``seconds`` no request is in flight and no block of the KV cache is in use."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            busy = (await self.ask("GET", "/load")).json()["server_load"]
            if not busy and await self.gauge("kv_cache_usage_ratio") == 0:
                return True
            await asyncio.sleep(0.1)
        return False
