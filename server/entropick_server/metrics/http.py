"""The metrics of HTTP requests, by route and status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .families import LONG, Families

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STATUSES: Final = ("200", "400", "404", "413", "500", "503")
_STATUSES_OF_GET: Final = ("200", "404", "500", "503")
"""the statuses whose series begin at 0; others begin when they come"""
NO_ROUTE: Final = "none"
"""the route of a request that no route took, whatever its path: paths are the client's to invent"""


class HttpMetrics:
    """A counter of HTTP requests by method, route and status, and a histogram of their time by route."""

    def __init__(self, families: Families) -> None:
        self._model_name = ""
        self._routes: tuple[tuple[str, str], ...] = ()
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

    def know(self, routes: Iterable[tuple[str, str]]) -> None:
        """Takes the methods and patterns of the routes, whose usual series begin with the model's name."""
        self._routes = tuple(routes)

    def bind(self, model_name: str) -> None:
        """Names the model, and begins the series of every known route at 0."""
        self._model_name = model_name
        for method, route in self._routes:
            for status in _STATUSES if method == "POST" else _STATUSES_OF_GET:
                self._requests.labels(model_name, method, route, status)
            self._seconds.labels(model_name, route)

    def on_answer(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an HTTP request that was answered; none before the model has a name.

        ``route``: a route's pattern, never a client's path.
        """
        if not self._model_name:
            return
        known = method if method in _METHODS else "other"
        self._requests.labels(self._model_name, known, route, str(status)).inc()
        self._seconds.labels(self._model_name, route).observe(seconds)
