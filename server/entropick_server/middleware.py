"""The wrappers around the routes: a count of the answers, an id, the check of the key and of the size.

Plain ASGI, because a wrapper that reads whole responses would break streams and hide disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import Keys, RequestRates
from .http_end import to_its_end
from .logs.formats import request_id as logged_id
from .logs.requests import note_code
from .metrics.http import NO_ROUTE, HttpMetrics
from .protocol.errors import ApiError
from .streaming.sse import error_response

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_HEADERS: Final = 128
_OPEN_PATHS: Final = frozenset({"/health"})
_UNCOUNTED: Final = frozenset({"/metrics"})
"""paths that a scraper reads all the time"""
_DROP_LIMITS: Final = 8
"""times the limit that is read of a body which is too large"""
_DROP_SECONDS: Final = 10.0
"""seconds that such a body may take"""


class Counted:
    """A wrapper that counts every HTTP request by method, route and status, when its answer has ended."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on; a client that went away before an answer began is not counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def count(status: int, seconds: float) -> None:
            if status:
                route = getattr(scope.get("route"), "path", NO_ROUTE)
                self._metrics.on_answer(scope["method"], route, status, seconds)

        await to_its_end(self._app, scope, receive, send, count)


class RequestId:
    """A wrapper that puts X-Request-Id into every answer: the client's if it is harmless, else a new id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on with ``scope["state"]["request_id"]``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        # for the lines that are logged on the way: the task is this request's alone
        logged_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class ApiKey:
    """A check of the key on every route but /health and the given paths, whose answers hold no data.

    It is asked for on unknown routes too: nothing can be probed. ``open_paths``: paths that need no key;
    ``open_prefix``: what the paths below it begin with, which need none either.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str], open_prefix: str) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = _OPEN_PATHS.union(open_paths)
        self._open_prefix = open_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on with ``scope["state"]["key_name"]`` (None on an open path), or refuses with 401."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_open = self._is_open(scope)
        name = None if is_open else self._name(scope)
        if is_open or name is not None:
            scope.setdefault("state", {})["key_name"] = name
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = ApiError(
                401,
                "A valid API key is required: Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            note_code(scope, error.code)
            await error_response(error)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope.get("path", "")
        return scope["type"] == "http" and (path in self._open_paths or path.startswith(self._open_prefix))

    def _name(self, scope: Scope) -> str | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                return self._keys.name_of(given.strip()) if scheme.lower() == b"bearer" else None
        return None


class RateLimit:
    """A bound on the requests a minute of each key; the open paths and the scraper's path are free."""

    def __init__(self, app: ASGIApp, rates: RequestRates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, with headers that tell the rest of the minute's requests, or refuses with 429."""
        name = scope["state"].get("key_name") if scope["type"] == "http" else None
        if name is None or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        try:
            told = self._rates.take(name)
        except ApiError as error:
            note_code(scope, error.code)
            await error_response(error)(scope, receive, send)
            return

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await self._app(scope, receive, send_with_rate)


class SizeLimit:
    """A bound on headers (431) and on the body (413), by its declared length or while it arrives.

    Before a 413 the rest of the body is read and dropped, within bounds: a client that is still sending would
    find its connection reset, and never read the answer.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, or refuses."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["headers"]) > _MAX_HEADERS:
            # the HTTP parser bounds their size only where they arrive in several packets
            error = ApiError(431, f"More than {_MAX_HEADERS} headers.", code="too_many_headers")
            await error_response(error)(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._limit:
            # a client that waits for "100 Continue" has sent nothing, and reading would ask for it
            if headers.get("expect", "").lower() != "100-continue":
                await self._drop(receive, 0)
            await error_response(self._too_large())(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                if message.get("more_body", False):
                    await self._drop(receive, received)
                # raised where the route reads its body; the app's handler answers
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    async def _drop(self, receive: Receive, received: int) -> None:
        """Reads the rest of a body and drops it, up to some times the limit and for some seconds."""
        # a body that comes too slowly has no better answer than that it is too large
        with contextlib.suppress(TimeoutError, ApiError):
            async with asyncio.timeout(_DROP_SECONDS):
                while received <= _DROP_LIMITS * self._limit:
                    message = await receive()
                    received += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    def _too_large(self) -> ApiError:
        message = f"The body is larger than {self._limit} bytes."
        return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
