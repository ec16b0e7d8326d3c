"""Answering while watching the client: a client that goes away cancels its request at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..engine.base import EngineError
from ..protocol.errors import ApiError, from_engine
from .answer import Write, error_event
from .run import ClientGoneError

_HEADERS_AFTER: Final = 1.0
"""seconds to wait for the first bytes, within which a failure still gets a status code of its own"""
_PIECE: Final = 1 << 16
"""bytes that are written at once: as many as are buffered for a client"""
_COMMENT: Final = b": waiting\n\n"
"""an event that every client ignores, and that keeps proxies from cutting a silent connection"""
Result = TypeVar("Result")


def error_response(error: ApiError) -> JSONResponse:
    """Returns the answer that refuses."""
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks, waits for their ends and takes note of their exceptions, so that nothing is left."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Returns the result of ``work``, which is cancelled when the client goes away."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        # this answer is not read; the code is for the log
        raise ApiError(499, "The client closed the connection.", type="client_closed")
    finally:
        await _end(task, gone)


class EventStream(Response):
    """A stream of an answer's events, which is cancelled as soon as the client is gone or too slow."""

    media_type = "text/event-stream"

    def __init__(
        self,
        answer: Callable[[Write], Coroutine[Any, Any, None]],
        *,
        write_timeout: float,
        on_end: Callable[[], object],
        silence: float = 0.0,
    ) -> None:
        """Prepares a stream: ``answer`` writes the events; ``on_end`` is called at its end, well or not.

        ``silence``: seconds without an event behind which a comment is written; 0: none is.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        # Response counts its (empty) body; a stream's length is unknown
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._answer = answer
        self._write_timeout = write_timeout
        self._silence = silence
        self._last = 0.0
        """time.monotonic() of the last bytes"""
        self._on_end = on_end
        self._first = asyncio.Event()
        """set when there is something to write"""
        self._open = asyncio.Event()
        """set when the headers are out"""
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        self._send = send
        work = asyncio.create_task(self._answer(self._write))
        gone = asyncio.create_task(_disconnect(receive))
        first = asyncio.create_task(self._first.wait())
        comments = asyncio.create_task(self._comment())
        try:
            await _one_of(work, gone, first, timeout=_HEADERS_AFTER)
            if work.done() and (error := work.exception()) is not None:
                if not isinstance(error, EngineError):
                    raise error
                # before the first byte: an ordinary refusal
                await error_response(from_engine(error))(scope, receive, send)
                return
            if not gone.done():
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._last = time.monotonic()
                self._open.set()
                await _one_of(work, gone, comments)
            if work.done():
                await self._close(work)
        finally:
            try:
                await _end(work, gone, first, comments)
            finally:
                self._on_end()

    async def _close(self, work: asyncio.Task[None]) -> None:
        """Ends the stream of an answer that has ended, if the client still reads."""
        try:
            try:
                work.result()
            except EngineError as error:
                await self._write(error_event(from_engine(error)))
        except ClientGoneError:
            return
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _comment(self) -> None:
        """Writes comments into the silences of an open stream; returns when the client takes none."""
        await self._open.wait()
        if not self._silence:
            await asyncio.Event().wait()
        while True:
            left = self._last + self._silence - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
                continue
            try:
                await self._write(_COMMENT)
            except ClientGoneError:
                return

    async def _write(self, data: bytes) -> None:
        """Writes some bytes behind the headers; raises ClientGoneError where that takes too long."""
        if not self._open.is_set():
            self._first.set()
            await self._open.wait()
        async with self._turn:
            # each piece has the time for itself: a client may read a large event slowly
            for at in range(0, len(data), _PIECE):
                piece = data[at : at + _PIECE]
                try:
                    async with asyncio.timeout(self._write_timeout):
                        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                except TimeoutError as error:
                    raise ClientGoneError from error
                self._last = time.monotonic()
                if at + _PIECE < len(data):
                    # a client that reads as fast as it is written to would keep the loop
                    await asyncio.sleep(0)


async def _one_of(*tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
