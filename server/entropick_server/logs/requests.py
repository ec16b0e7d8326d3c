"""The line that the log has for every HTTP request, written at its end."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from ..http_end import to_its_end
from .formats import FIELDS
from .record import RequestRecord

_log = logging.getLogger(__name__)
_METHOD_LIMIT: Final = 16
_ADDRESS_LIMIT: Final = 64
_GONE: Final = 499
"""the status of an answer that did not begin because its client went away"""


def note_code(scope: Scope, code: str | None) -> None:
    """Notes the code with which a request is refused, for its line."""
    record = scope.get("state", {}).get("record")
    if record is not None:
        record.code = code


class Logged:
    """A wrapper that writes a line for every HTTP request at its end, however it ends.

    The line holds no text of a client beyond a checked id: no path that no route has, no query, no prompt.
    ``paths``: those of the routes that have no parameters, told also where the request was refused before.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self._app = app
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on with ``scope["state"]["record"]``."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord()
        scope.setdefault("state", {})["record"] = record

        def tell(status: int, seconds: float) -> None:
            self._tell(scope, record, status or _GONE, seconds)

        await to_its_end(self._app, scope, receive, send, tell)

    def _tell(self, scope: Scope, record: RequestRecord, status: int, seconds: float) -> None:
        level = logging.ERROR if status == 500 else logging.INFO
        if not _log.isEnabledFor(level):
            return
        method, route = scope["method"][:_METHOD_LIMIT], self._route(scope)
        client = scope.get("client")
        fields: dict[str, Any] = {
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "key": scope["state"].get("key_name"),
            "request_id": scope["state"].get("request_id"),
            "client": None if client is None else str(client[0])[:_ADDRESS_LIMIT],
            "code": record.code,
        }
        if record.reasons:
            fields["prompt_tokens"] = record.prompt_tokens
            fields["completion_tokens"] = record.completion_tokens
            fields["finish_reasons"] = dict(record.reasons)
        told = {name: value for name, value in fields.items() if value is not None}
        _log.log(level, "%s %s %d", method, route, status, extra={FIELDS: told})

    def _route(self, scope: Scope) -> str:
        route = getattr(scope.get("route"), "path", None)
        if route is not None:
            return str(route)
        path = scope.get("path", "")
        return path if path in self._paths else "none"
