"""A crowd of connections that ask for nothing, in a process of its own: idle ones, and slow heads.

``python -m robustness.crowd PORT IDLE SLOW`` keeps IDLE connections on which nothing comes, and SLOW on which
a head arrives a byte a second. A connection that the server closes is opened again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .wire import HOST

_HEAD: Final = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"x" * 64


def module_command(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command that runs a module of this package, and its environment."""
    room = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (room, os.environ.get("PYTHONPATH"))))
    return [sys.executable, "-m", f"robustness.{name}", *arguments], os.environ | {"PYTHONPATH": paths}


class Crowd:
    """A crowd at a server's port, which disperses on leaving."""

    def __init__(self, port: int, idle: int = 1000, slow: int = 200) -> None:
        self._command, self._environment = module_command("crowd", str(port), str(idle), str(slow))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of its process. Raises RuntimeError where it was never started."""
        if self._process is None:
            raise RuntimeError("the crowd was not started")
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env=self._environment)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class _Member:
    """A connection of the crowd, which is opened again a second after it was closed."""

    def __init__(self, address: tuple[str, int], slow: bool) -> None:
        self._address = address
        self._slow = slow
        self._bytes = cycle(_HEAD)
        self._socket: socket.socket | None = None
        self.turn = 0
        """the number of what it does next"""

    def act(self, poll: select.epoll, members: dict[int, _Member]) -> bool:
        """Connects, or sends a byte. Returns whether there is something to do in a second again."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(bytes([next(self._bytes)]))
            return True
        self._socket, self._bytes = socket.socket(), cycle(_HEAD)
        self._socket.setblocking(False)
        self._socket.connect_ex(self._address)
        members[self._socket.fileno()] = self
        # what comes is the end, or an answer behind which it comes
        poll.register(self._socket, select.EPOLLIN | select.EPOLLRDHUP)
        return self._slow

    def close(self, members: dict[int, _Member]) -> None:
        """Closes the connection, without a trace in the system."""
        if self._socket is not None:
            del members[self._socket.fileno()]
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()
            self._socket = None


def _crowd(port: int, idle: int, slow: int) -> None:
    """Keeps the crowd for as long as this process lives.

    By hand, without a task or a stream for each: the crowd's own work is none of a server on another machine.
    """
    count = idle + slow
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(1024, count + 100)), hard))
    members: dict[int, _Member] = {}
    due: list[tuple[float, int, _Member]] = []
    numbers = itertools.count()

    def plan(member: _Member, seconds: float) -> None:
        member.turn = next(numbers)
        heapq.heappush(due, (time.monotonic() + seconds, member.turn, member))

    for i in range(count):
        # all within two seconds, not in one burst
        plan(_Member((HOST, port), i >= idle), 2.0 * i / count)
    with select.epoll() as poll:
        while True:
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, turn, member = heapq.heappop(due)
                if turn == member.turn and member.act(poll, members):
                    plan(member, 1.0)
            for descriptor, _ in poll.poll(max(0.0, due[0][0] - now) if due else None):
                member = members[descriptor]
                member.close(members)
                plan(member, 1.0)


if __name__ == "__main__":
    _crowd(*map(int, sys.argv[1:4]))
