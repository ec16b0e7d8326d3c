"""Threads beside the event loop for work that would hold it up: large bodies, tokenising, large answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Final, TypeVar

from .protocol.errors import unavailable

SMALL: Final = 2_048
"""characters of text, or tokens, below which work stays in the event loop: a few milliseconds at most"""
LARGE: Final = 1 << 18
"""characters from which work waits in a lane of its own, so that it never delays ordinary prompts"""
SMALL_BODY: Final = 1 << 14
"""bytes of a body below which it is read in the event loop"""
COMPILE_SECONDS: Final = 10.0
"""the time that a grammar may wait and take; compiling is bounded far below it"""
Result = TypeVar("Result")


class Work(Enum):
    """The kinds of work on texts, which never wait for each other."""

    TEXT = "text"
    """prompts, and answers that are written"""
    CHAT = "chat"
    """conversations, whose template may need all of its time"""
    COUNT = "count"
    """what /tokenize and /detokenize ask for: a text of any length, for no reply"""


class Offload:
    """A set of threads: for bodies, for grammars, and for each kind of work on texts, ordinary and large.

    Each has a queue of its own. Work whose caller is cancelled leaves its queue; work that has begun runs to
    its end.
    """

    def __init__(self) -> None:
        self._bodies = ThreadPoolExecutor(1, "entropick-body")
        self._ordinary = {kind: ThreadPoolExecutor(1, f"entropick-{kind.value}") for kind in Work}
        self._large = {kind: ThreadPoolExecutor(1, f"entropick-large-{kind.value}") for kind in Work}
        self._grammars = ThreadPoolExecutor(1, "entropick-grammar")
        self._turns = asyncio.Lock()
        self._closed = False

    async def run(self, size: int, work: Callable[[], Result], kind: Work = Work.TEXT) -> Result:
        """Runs ``work`` on ``size`` characters or tokens, in a thread unless small. Returns its result.

        Raises the 503 where the server is shutting down.
        """
        if size < SMALL:
            return work()
        lanes = self._ordinary if size < LARGE else self._large
        return await self._submit(lanes[kind], work)

    async def turn(self) -> None:
        """Waits for a turn of the event loop that no other caller of this method has.

        Many choices end in one step of an engine; between two such ends others get their turns.
        """
        async with self._turns:
            await asyncio.sleep(0)

    async def read(self, size: int, work: Callable[[], Result]) -> Result:
        """Runs ``work`` on a body of ``size`` bytes, in the thread for it unless small. Returns its result.

        Raises the 503 where the server is shutting down.
        """
        return work() if size < SMALL_BODY else await self._submit(self._bodies, work)

    async def compile(self, work: Callable[[], Result]) -> Result:
        """Runs the compiling of a grammar in the thread for it. Returns its result.

        Raises TimeoutError where that takes too long, and the 503 where the server is shutting down.
        """
        async with asyncio.timeout(COMPILE_SECONDS):
            return await self._submit(self._grammars, work)

    async def _submit(self, lane: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        if not self._closed:
            future = lane.submit(work)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._closed or (task is not None and task.cancelling()):
                    raise
        raise unavailable("The server is shutting down.", "shutting_down", retry_after=5)

    def close(self) -> None:
        """Drops the work that has not begun, whose callers get a 503; does not wait for the rest."""
        self._closed = True
        for lane in (self._bodies, *self._ordinary.values(), *self._large.values(), self._grammars):
            lane.shutdown(wait=False, cancel_futures=True)
