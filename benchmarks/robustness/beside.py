"""Other clients' streams beside a trial, in a process of their own: when did each of their tokens arrive?

``python -m robustness.beside PORT STREAMS KEY`` prints a line for every token: its stream, the time, and 1
where it is the first of a reply. The clock is the machine's monotonic one, which all processes share. In the
trial's own process the trial's work would hold the times up.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from .crowd import module_command
from .served import Served
from .wire import events

_BODY: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 900,
    "ignore_eos": True,
    "entropick": {"policy": "fixed", "telemetry": "none"},
}


class Arrival(NamedTuple):
    """A token that arrived."""

    stream: int
    time: float
    first: bool


class Beside:
    """Clients that each read one stream after another until they are left."""

    def __init__(self, served: Served, streams: int = 1) -> None:
        self._times = tempfile.NamedTemporaryFile(prefix="beside-")  # noqa: SIM115
        self._command, self._environment = module_command(
            "beside", str(served.port), str(streams), served.key or ""
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=self._times, env=self._environment)
        end = time.monotonic() + 60
        while len(self.arrivals()) < 20:
            if time.monotonic() > end:
                self._process.kill()
                raise RuntimeError("the streams beside the trial have not begun")
            await asyncio.sleep(0.1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._times.close()

    def arrivals(self) -> list[Arrival]:
        """Returns the tokens that arrived until now, in order."""
        lines = Path(self._times.name).read_text().rpartition("\n")[0].splitlines()
        split = (line.split() for line in lines)
        return [Arrival(int(stream), float(at), first == "1") for stream, at, first in split]

    def largest_gap(self, since: float, until: float) -> float:
        """Returns the longest time without a token of any stream, of the time between two moments."""
        times = [arrival.time for arrival in self.arrivals()]
        last = max((t for t in times if t <= since), default=since)
        inside = [last, *(t for t in times if since < t <= until), until]
        return max(later - sooner for sooner, later in itertools.pairwise(inside))

    def latencies(self, since: float, until: float) -> list[float]:
        """Returns the times between two tokens of a reply, of those that arrived between two moments."""
        before: dict[int, float] = {}
        found = []
        for arrival in self.arrivals():
            sooner = before.get(arrival.stream)
            if sooner is not None and not arrival.first and since <= arrival.time <= until:
                found.append(arrival.time - sooner)
            before[arrival.stream] = arrival.time
        return found


async def _read(stream: int, port: int, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for seed in itertools.count(1000 * stream):
        first = True
        try:
            async for event in events(port, {**_BODY, "seed": seed}, headers=headers):
                if event and event.get("choices"):
                    print(stream, time.monotonic(), int(first), flush=True)
                    first = False
        except (OSError, asyncio.IncompleteReadError, ValueError):
            await asyncio.sleep(0.05)
        if first:
            # refused, or the server is not there
            await asyncio.sleep(0.2)


async def _all(port: int, streams: int, key: str) -> None:
    await asyncio.gather(*(_read(stream, port, key) for stream in range(streams)))


if __name__ == "__main__":
    asyncio.run(_all(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
