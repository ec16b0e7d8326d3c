"""Threads beside the event loop for work that would hold it up: tokenising, large answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

SMALL: Final = 2_048
"""characters of text, or tokens, below which work stays in the event loop: a few milliseconds at most"""
_LARGE: Final = 1 << 18
"""characters from which work waits in a lane of its own, so that it never delays ordinary prompts"""
Result = TypeVar("Result")


class Offload:
    """Two threads, one for ordinary and one for large work, each with a queue of its own.

    Work whose caller is cancelled leaves its queue; work that has begun runs to its end.
    """

    def __init__(self) -> None:
        self._ordinary = ThreadPoolExecutor(1, "entropick-text")
        self._large = ThreadPoolExecutor(1, "entropick-large-text")

    async def run(self, size: int, work: Callable[[], Result]) -> Result:
        """Runs ``work`` on ``size`` characters or tokens, in a thread unless small. Returns its result."""
        if size < SMALL:
            return work()
        lane = self._ordinary if size < _LARGE else self._large
        return await asyncio.get_running_loop().run_in_executor(lane, work)

    def close(self) -> None:
        """Drops the work that has not begun; does not wait for the rest."""
        for lane in (self._ordinary, self._large):
            lane.shutdown(wait=False, cancel_futures=True)
