"""Request bodies while they arrive: how long each may take, and how many bytes are held of all together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from starlette.types import Message, Receive

from ..protocol.errors import ApiError, unavailable

SMALL_BODY: Final = 1 << 16
"""bytes up to which a body counts as nothing: as many as are buffered for any connection"""
_LARGE_AT_ONCE: Final = 16
"""bodies of the largest size that may be held unfinished"""
_MOST_WAITING: Final = 64
"""large bodies that may wait for the others; their connections' buffers are held meanwhile"""
_SLOWEST: Final = 16_384
"""bytes per second; a body that comes faster may take longer than its deadline"""


class Share:
    """A part of the budget, asked for by a body."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.granted = False
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class BodyBudget:
    """A bound on the bytes of unfinished bodies, granted in the order in which they are asked for."""

    def __init__(self, largest: int) -> None:
        """Makes a budget for some bodies of ``largest`` bytes each."""
        self.free = _LARGE_AT_ONCE * largest
        self._waiting: deque[Share] = deque()

    @property
    def crowded(self) -> bool:
        """True while a body waits for others to end."""
        return bool(self._waiting)

    async def take(self, share: Share, seconds: float) -> None:
        """Waits until a share is granted or withdrawn. Raises the 503 after some seconds, or at once."""
        if not self._waiting and share.size <= self.free:
            self._grant(share)
            return
        if len(self._waiting) >= _MOST_WAITING:
            raise _crowded()
        self._waiting.append(share)
        try:
            async with asyncio.timeout(seconds):
                await share.decided
        except TimeoutError as error:
            raise _crowded() from error
        finally:
            if share in self._waiting:
                self._waiting.remove(share)
                self._pass_on()

    def give_back(self, share: Share) -> None:
        """Takes a share back, or withdraws a share that waits."""
        if share.granted:
            share.granted = False
            self.free += share.size
        elif not share.decided.done():
            share.decided.set_result(None)
        self._pass_on()

    def _grant(self, share: Share) -> None:
        self.free -= share.size
        share.granted = True
        share.decided.set_result(None)

    def _pass_on(self) -> None:
        while self._waiting and (self._waiting[0].decided.done() or self._waiting[0].size <= self.free):
            share = self._waiting.popleft()
            if not share.decided.done():
                self._grant(share)


class IncomingBody:
    """The body of a request, which must arrive in time.

    Its time begins when its first bytes are asked for, or are granted room. A body may take ``seconds``, and
    a second more for each 16 KiB that came, unless other bodies wait for room; and no longer than ``seconds``
    from one piece to the next.
    """

    def __init__(self, budget: BodyBudget, seconds: float, size: int) -> None:
        """Begins a body of ``size`` bytes, or as many as it may have at most."""
        self._budget = budget
        self._seconds = seconds
        self._share = Share(size) if size > SMALL_BODY else None
        self._received = 0
        self._began: float | None = None
        self._last = 0.0
        self._whole = False

    async def receive(self, receive: Receive) -> Message:
        """Returns ASGI's next message. Raises the 408 or 503 where the body is too slow or too much."""
        if self._whole:
            return await receive()
        if self._began is None:
            if self._share is not None:
                await self._budget.take(self._share, self._seconds)
            self._began = self._last = time.monotonic()
        try:
            async with asyncio.timeout(self._left(self._began)):
                message = await receive()
        except TimeoutError as error:
            raise ApiError(
                408,
                f"The body of the request came too slowly: less than {_SLOWEST} bytes per second after "
                f"{self._seconds:g} seconds, or nothing for as long.",
                code="body_timeout",
            ) from error
        self._last = time.monotonic()
        self._received += len(message.get("body", b""))
        if not message.get("more_body", False):
            self.end()
        return message

    def _left(self, began: float) -> float:
        extra = 0.0 if self._budget.crowded else self._received / _SLOWEST
        return min(self._last, began + extra) + self._seconds - time.monotonic()

    def end(self) -> None:
        """Gives the share of the body back, once the body is whole or not waited for."""
        self._whole = True
        if self._share is not None:
            self._budget.give_back(self._share)
            self._share = None


def _crowded() -> ApiError:
    # the connection stays for a while and the rest is dropped: a client that still sends finds this answer
    return unavailable("Too many large request bodies arrive at the same time.", "too_many_bodies", 5)
