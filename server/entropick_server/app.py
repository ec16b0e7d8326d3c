"""The application: routes, middleware and errors; it starts and ends the state."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from .access import RequestRates, keys_of, refreshed
from .engine.base import Engine
from .logs.requests import Logged, note_code
from .middleware import ApiKey, Counted, RateLimit, RequestId, SizeLimit
from .openapi import describe
from .protocol.errors import ApiError
from .protocol.unserved import route_not_served
from .routes import chat, completions, models, requests, responses_api, system, tokenize
from .routes.page import PAGE, PAGE_PREFIX, page_router
from .settings import Settings
from .state import ServerState
from .streaming.sse import error_response
from .version import server_version

_log = logging.getLogger(__name__)


def create_app(
    engine: Engine,
    settings: Settings,
    on_failure: Callable[[BaseException], None] | None = None,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """Returns the app around ``engine``, which starts with the app and is closed with it.

    ``on_ready`` is called when the model is loaded; ``on_failure`` when it cannot be: the app goes on
    answering 503. Raises SettingsError where the keys cannot be had.
    """
    state = ServerState(engine, settings, on_failure, on_ready)
    keys = keys_of(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.begin_loading()
        try:
            async with refreshed(keys):
                yield
        finally:
            await state.close()

    app = FastAPI(
        title="entropick",
        version=server_version(),
        lifespan=lifespan,
        # their pages would load scripts from elsewhere; /openapi.json stays
        docs_url=None,
        redoc_url=None,
        # a redirect would answer before the key is asked for, and clients drop bodies on it
        redirect_slashes=False,
    )
    app.state.server = state
    for module in (chat, completions, responses_api, models, tokenize, system, requests):
        app.include_router(module.router)
    state.metrics.http.know(
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    )
    app.include_router(page_router())
    _add_errors(app)
    # added last runs first: every answer has an id, every refusal too
    app.add_middleware(SizeLimit, limit=settings.max_body_bytes)
    if settings.key_requests_per_minute is not None:
        app.add_middleware(RateLimit, rates=RequestRates(settings.key_requests_per_minute))
    if keys is not None:
        app.add_middleware(ApiKey, keys=keys, open_paths=[PAGE], open_prefix=PAGE_PREFIX)
    if settings.allowed_origins:
        # before the key: a browser sends none with its preflight, and must be able to read a 401
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(RequestId)
    app.add_middleware(Counted, metrics=state.metrics.http)
    literal = [route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path]
    app.add_middleware(Logged, paths=literal)
    describe(app, keyed=keys is not None)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        note_code(request.scope, error.code)
        return error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        _log.debug("a client closed its connection in the middle of a body: %s", request.url.path)
        # it is not read; the code is for the metrics
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and (refusal := route_not_served(request.url.path)) is not None:
            note_code(request.scope, refusal.code)
            return error_response(refusal)
        messages = {404: "There is no such route.", 405: "This route does not know this method."}
        message = messages.get(error.status_code, str(error.detail))
        code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code)
        note_code(request.scope, code)
        return error_response(ApiError(error.status_code, message, code=code, headers=error.headers))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        # the server's log has the traceback; the client learns no more than that it is our fault. This runs
        # outside the middleware, and how far the request was read is not known: the connection ends
        headers = {"Connection": "close"}
        if request_id := request.scope.get("state", {}).get("request_id"):
            headers["X-Request-Id"] = request_id
        message = "Something went wrong in the server."
        return error_response(ApiError(500, message, code="internal_error", headers=headers))
