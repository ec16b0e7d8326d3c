"""A crowd of connections that ask for nothing, in a process of its own: idle ones, and slow heads.

``python -m robustness.crowd PORT IDLE SLOW`` keeps IDLE connections on which nothing comes, and SLOW on which
a head arrives a byte a second. A connection that the server closes is opened again.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .wire import connected

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

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env=self._environment)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


async def _stay(port: int, slow: bool, delay: float) -> None:
    await asyncio.sleep(delay)
    while True:
        try:
            async with connected(port) as (reader, writer):
                closed = asyncio.create_task(reader.read())
                for byte in cycle(_HEAD):
                    if slow:
                        writer.write(bytes([byte]))
                    done, _ = await asyncio.wait([closed], timeout=1.0 if slow else None)
                    if done:
                        break
                closed.exception()
        except OSError:
            pass
        await asyncio.sleep(1.0)


async def _crowd(port: int, idle: int, slow: int) -> None:
    count = idle + slow
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(1024, count + 100)), hard))
    # all within two seconds, not in one burst
    await asyncio.gather(*(_stay(port, i >= idle, 2.0 * i / count) for i in range(count)))


if __name__ == "__main__":
    asyncio.run(_crowd(*map(int, sys.argv[1:4])))
