"""Answering while watching the client: a client that goes away cancels its request at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..engine.base import EngineError
from ..protocol.errors import ApiError, from_engine
from .answer import error_frame
from .choice import stop_task

_HEADERS_AFTER = 1.0
"""seconds to wait for the first frame, within which a failure still gets a status code of its own"""


def error_response(error: ApiError) -> JSONResponse:
    """The answer that refuses."""
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, str]) -> str:
    """The result of ``work``, which is cancelled when the client goes away."""
    result: list[str] = []

    async def keep() -> None:
        result.append(await work)

    await _race(asyncio.create_task(keep()), receive)
    if not result:
        # nobody reads this answer; the code is for the log
        raise ApiError(499, "The client closed the connection.", type="client_closed")
    return result[0]


async def _race(task: asyncio.Task[None], receive: Receive) -> None:
    """Run ``task`` until it ends or the client goes away; raises what it raised."""
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        await stop_task(gone)
        await stop_task(task)


class EventStream(Response):
    """Server-sent events from a generator of frames, closed as soon as the client is gone or too slow."""

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        write_timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        # Response counts its (empty) body; a stream's length is unknown
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._frames = frames
        self._write_timeout = write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        await _race(asyncio.create_task(self._run(scope, receive, send)), receive)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            first: asyncio.Task[bytes] = asyncio.create_task(_next(frames))
            try:
                await asyncio.wait({first}, timeout=_HEADERS_AFTER)
                if first.done():
                    first.result()
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send_all(first, frames, send)
            except EngineError as error:
                # before the first byte: an ordinary refusal
                await error_response(from_engine(error))(scope, receive, send)
            finally:
                first.cancel()
                await asyncio.wait({first})

    async def _send_all(
        self, first: asyncio.Task[bytes], frames: AsyncGenerator[bytes, None], send: Send
    ) -> None:
        try:
            try:
                await self._write(await first, send)
                async for data in frames:
                    await self._write(data, send)
            except EngineError as error:
                await self._write(error_frame(from_engine(error)), send)
        except _SlowReaderError:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, data: bytes, send: Send) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError as error:
            raise _SlowReaderError from error


class _SlowReaderError(Exception):
    """The client did not read for too long; its connection is dropped, its request cancelled."""


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames, b"")
