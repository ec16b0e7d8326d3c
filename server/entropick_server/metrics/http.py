"""The metrics of HTTP requests, by route and status."""

from __future__ import annotations

from typing import Final

from .families import LONG, Families

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE: Final = "none"
"""the route of a request that no route took, whatever its path: paths are the client's to invent"""


class HttpMetrics:
    """A counter of HTTP requests by method, route and status, and a histogram of their time by route."""

    def __init__(self, families: Families) -> None:
        self._model_name = ""
        self._requests = families.counter(
            "http_requests",
            "HTTP requests that were answered, by method, route (none: no such route) and status.",
            "method",
            "handler",
            "status",
        )
        self._seconds = families.histogram(
            "http_request_duration_seconds",
            "From an HTTP request's headers to the last byte of its answer, by route.",
            LONG,
            "handler",
        )

    def bind(self, model_name: str) -> None:
        """Names the model."""
        self._model_name = model_name

    def on_answer(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an HTTP request that was answered; none before the model has a name.

        ``route``: a route's pattern, never a client's path.
        """
        if not self._model_name:
            return
        known = method if method in _METHODS else "other"
        self._requests.labels(self._model_name, known, route, str(status)).inc()
        self._seconds.labels(self._model_name, route).observe(seconds)
