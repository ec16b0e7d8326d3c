"""Another client's stream beside a trial, in a process of its own: when did each of its tokens arrive?

``python -m robustness.beside PORT`` prints a time for every token; the clock is the machine's monotonic one,
which all processes share. In the trial's own process the trial's work would hold the times up.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .served import Served
from .wire import events

_BODY: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 900,
    "ignore_eos": True,
    "seed": 1,
    "entropick": {"policy": "fixed", "telemetry": "none"},
}


class Beside:
    """A client that reads one stream after another until it is left."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._times = tempfile.NamedTemporaryFile(prefix="beside-")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        room = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (room, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "robustness.beside", str(self._served.port), self._served.key or ""],
            stdout=self._times,
            env=os.environ | {"PYTHONPATH": paths},
        )
        end = time.monotonic() + 30
        while len(self.times()) < 20:
            if time.monotonic() > end:
                self._process.kill()
                raise RuntimeError("the stream beside the trial has not begun")
            await asyncio.sleep(0.05)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._times.close()

    def times(self) -> list[float]:
        """Returns the times at which tokens arrived."""
        whole = Path(self._times.name).read_text().rpartition("\n")[0]
        return [float(line) for line in whole.splitlines()]

    def largest_gap(self, since: float, until: float) -> float:
        """Returns the longest time without a token, of the times from ``since`` on, which may last still."""
        times = self.times()
        last = max((t for t in times if t <= since), default=since)
        inside = [last, *(t for t in times if since < t <= until), until]
        return max(later - sooner for sooner, later in itertools.pairwise(inside))


async def _read(port: int, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    while True:
        try:
            async for event in events(port, _BODY, headers=headers):
                if event and event.get("choices"):
                    print(time.monotonic(), flush=True)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(_read(int(sys.argv[1]), sys.argv[2]))
