"""Browsers: origins by option, none by default; a preflight is answered before the key is asked for."""

from __future__ import annotations

from typing import Any

import pytest

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CHAT = "/v1/chat/completions"
HERE, THERE = "https://chat.example.org", "https://elsewhere.example.org"
ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_no_origin_by_default(serve: Any, engine: Any) -> None:
    async with serve(engine, api_key="k") as client:
        preflight = await client.options(CHAT, headers={"Origin": HERE, **ASKS})
        assert preflight.status_code == 401
        answer = await client.post(CHAT, json=HELLO, headers={"Origin": HERE, "Authorization": "Bearer k"})
        assert answer.status_code == 200
        for headers in (preflight.headers, answer.headers):
            assert not [name for name in headers if name.startswith("access-control")]


async def test_the_preflight_needs_no_key_and_the_request_does(serve: Any, engine: Any) -> None:
    async with serve(engine, api_key="k", allowed_origins=HERE) as client:
        preflight = await client.options(CHAT, headers={"Origin": HERE, **ASKS})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == HERE
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        assert preflight.headers["x-request-id"]
        refused = await client.post(CHAT, json=HELLO, headers={"Origin": HERE})
        assert refused.status_code == 401
        # or the page could not tell why
        assert refused.headers["access-control-allow-origin"] == HERE
        key = {"Authorization": "Bearer k"}
        answer = await client.post(CHAT, json=HELLO, headers={"Origin": HERE, **key})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == HERE
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        other = await client.post(CHAT, json=HELLO, headers={"Origin": THERE, **key})
        assert "access-control-allow-origin" not in other.headers
        assert (await client.options(CHAT, headers={"Origin": THERE, **ASKS})).status_code == 400


@pytest.mark.parametrize("origins", [f"{THERE},{HERE}", "*"])
async def test_a_stream_carries_the_origin(serve: Any, engine: Any, origins: str) -> None:
    async with serve(engine, allowed_origins=origins) as client:
        answer = await client.post(CHAT, json={**HELLO, "stream": True}, headers={"Origin": HERE})
        assert answer.text.endswith("data: [DONE]\n\n")
        assert answer.headers["access-control-allow-origin"] == ("*" if origins == "*" else HERE)
        assert "access-control-allow-credentials" not in answer.headers
