"""A running server as ``explain`` and ``replay`` ask it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx


class InspectionError(Exception):
    """A server that cannot be asked, or that refuses; the message is fit for a person."""


class Server:
    """A server's routes for finished requests. Use it as a context."""

    def __init__(self, url: str, api_key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        """Prepares to ask the server at ``url``, with or without ``/v1``; ``transport`` None: the network."""
        base = url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._client = httpx.Client(base_url=base, headers=headers, timeout=600, transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise InspectionError(f"--url: {error}") from error
        self._url = base

    def request(self, request_id: str) -> dict[str, Any]:
        """Returns a finished request with all that the server remembers of it. Raises InspectionError."""
        return self._send("GET", f"/v1/requests/{quote(request_id, safe='')}")

    def explanation(self, request_id: str) -> dict[str, Any]:
        """Returns a finished request token by token with its rules. Raises InspectionError."""
        return self._send("GET", f"/v1/requests/{quote(request_id, safe='')}/explanation")

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Generates the completion that a body asks for. Raises InspectionError."""
        return self._send("POST", "/v1/completions", body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, json=body)
            told = answer.json()
        except httpx.HTTPError as error:
            raise InspectionError(f"no answer from {self._url}: {error}") from error
        except ValueError as error:
            raise InspectionError(f"{self._url} answered {answer.status_code} without JSON") from error
        if answer.status_code != 200 or not isinstance(told, dict):
            message = told.get("error", {}).get("message") if isinstance(told, dict) else None
            raise InspectionError(
                f"{self._url} answered {answer.status_code}: {message or 'no reason given'}"
            )
        return told

    def __enter__(self) -> Self:
        """Returns the server; connections open when they are needed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self._client.close()
