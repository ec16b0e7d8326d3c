"""The API key guards every route but /health and the files of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

KEY = "s3cret"


@pytest.fixture
async def guarded(engine: Any, serve: Any, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    keys = tmp_path / "keys"
    keys.write_text("other: another-caller\n")
    async with serve(engine, api_key=KEY, api_key_file=keys) as client:
        yield client


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
OPEN = {"/health", "/", "/page/{path:path}"}
"""the state of the server as a status, and files that hold no data"""


def guarded_routes(app: Any) -> list[tuple[str, str]]:
    """Every method on every route of the app, its own and others, and on paths that no route takes."""
    every = {route.path for route in app.routes}
    assert every > OPEN
    paths = sorted(every - OPEN)
    assert len(paths) >= 14
    assert {"/openapi.json", "/metrics", "/v1/requests", "/v1/requests/{answer_id}"} <= set(paths)
    near = ["/nope", "/health/", "/health/x", "//health", "/page", "/Health", "/v1", "/v1/models/", "//"]
    return [(method, path) for path in [*paths, *near, "/docs", "/redoc", "/*"] for method in METHODS]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY} x",
        "Bearer ü",
        "Bearer " + "x" * 5000,
    ],
)
async def test_every_route_refuses(guarded: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    for method, path in guarded_routes(guarded.app):  # type: ignore[attr-defined]
        answer = await guarded.request(method, f"http://test{path}", headers=headers)
        assert answer.status_code == 401, (method, path)
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "x-request-id" in answer.headers
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("key", [KEY, "another-caller"])
async def test_a_key_opens_every_route(guarded: httpx.AsyncClient, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    for method, path in guarded_routes(guarded.app):  # type: ignore[attr-defined]
        answer = await guarded.request(method, f"http://test{path}", headers=headers)
        # a route's own answer: to a GET, to a body that is none, to another method, to an unknown path
        assert answer.status_code in (200, 404, 405, 415), (method, path)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_key_opens(guarded: httpx.AsyncClient, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {KEY}"}
    for path in ("/v1/models", "/metrics", "/version", "/v1/policy", "/openapi.json"):
        assert (await guarded.get(path, headers=headers)).status_code == 200
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert (await guarded.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200


async def test_health_needs_no_key(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/health")).status_code == 200


async def test_a_large_body_without_key_is_a_401(guarded: httpx.AsyncClient) -> None:
    answer = await guarded.post("/v1/completions", content=b" " * (5 << 20))
    assert answer.status_code == 401


async def test_websockets_are_closed(guarded: httpx.AsyncClient) -> None:
    app: Any = guarded.app  # type: ignore[attr-defined]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/v1/models", "headers": []}, receive, send)
    assert [m["type"] for m in sent] == ["websocket.close"]
