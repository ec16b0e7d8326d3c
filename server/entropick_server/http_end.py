"""The end of an HTTP request, as the wrappers that count and log requests see it."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def to_its_end(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, on_end: Callable[[int, float], None]
) -> None:
    """Passes a request on, and calls ``on_end`` with its status and its seconds, however it ends.

    The status is 0 where the client went away before an answer began.
    """
    status, begin = 0, time.monotonic()

    async def noted(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, noted)
    except Exception:
        # an error that no handler took is answered outside, with this status
        status = status or 500
        raise
    finally:
        on_end(status, time.monotonic() - begin)
