"""The API key guards every route but /health and the files of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

KEY = "s3cret"


@pytest.fixture
async def guarded(engine: Any, serve: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(engine, api_key=KEY) as client:
        yield client


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
    app: Any = guarded.app  # type: ignore[attr-defined]
    paths = {
        (method, route.path)
        for route in app.routes
        for method in getattr(route, "methods", None) or {"GET"}
        if route.path not in ("/health", "/", "/page/{path:path}")
    }
    assert len([r for r in app.routes if isinstance(r, APIRoute)]) >= 12
    assert ("GET", "/openapi.json") in paths
    for method, path in [*paths, ("GET", "/nope"), ("OPTIONS", "/v1/models"), ("GET", "/health/x")]:
        answer = await guarded.request(method, path, headers=headers)
        assert answer.status_code == 401, path
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "x-request-id" in answer.headers
        assert "access-control-allow-origin" not in answer.headers


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
