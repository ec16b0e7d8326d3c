"""The time that a request may wait and run: what the client gets, and that nothing of it is left."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from .support import until

CHAT, PLAIN, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "Hi"}]}),
    (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "n": 3}),
    (
        CHAT,
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "entropick": {"consensus": {"k": 3, "extract": "text", "stop": "all"}},
        },
    ),
    (PLAIN, {"prompt": ["a", "b"], "max_tokens": 200}),
    (RESPONSES, {"input": "Hi"}),
]
LONG = b"x" * 150
MESSAGE = "The request took longer than 0.3 seconds (request_timeout_seconds)."


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize(("route", "body"), BODIES)
async def test_a_plain_answer(engine: Any, serve: Any, route: str, body: dict[str, Any]) -> None:
    engine.script = lambda request: list(LONG)
    engine.delay = 0.02
    async with serve(engine, request_timeout_seconds=0.3) as client:
        answer: httpx.Response = await client.post(route, json=body)
        assert answer.status_code == 504
        assert answer.json()["error"] == {
            "message": MESSAGE,
            "type": "server_error",
            "param": None,
            "code": "request_timeout",
        }
        assert answer.headers["x-should-retry"] == "false"
        assert sorted(engine.closed) == sorted(request.request_id for request in engine.requests)
        assert not engine.running
        assert client.app.state.server.in_flight == 0
        engine.delay = 0.0
        assert (await client.post(route, json=body)).status_code == 200


@pytest.mark.parametrize(("route", "body"), BODIES)
async def test_a_stream_that_has_begun(engine: Any, serve: Any, route: str, body: dict[str, Any]) -> None:
    engine.script = lambda request: list(LONG)
    engine.delay = 0.02
    # a vote has no event before its verdict: its stream ends like an answer that never began
    vote = "consensus" in body.get("entropick", {})
    async with serve(engine, request_timeout_seconds=0.3) as client:
        answer: httpx.Response = await client.post(route, json={**body, "stream": True})
        *_, last = events(answer.text) or [answer.json()]
        assert "[DONE]" not in answer.text
        if route == RESPONSES:
            assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
            assert last["response"]["error"]["message"] == MESSAGE
        else:
            assert (last["error"]["message"], last["error"]["code"]) == (MESSAGE, "request_timeout")
        assert vote or answer.status_code == 200
        await until(lambda: client.app.state.server.in_flight == 0)
        assert not engine.running


async def test_a_request_that_waits_all_the_time(engine: Any, serve: Any) -> None:
    engine.script = lambda request: list(LONG)
    engine.delay = 30.0
    async with serve(engine, request_timeout_seconds=0.2) as client:
        for stream in (False, True):
            answer = await client.post(PLAIN, json={"prompt": "x", "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        assert client.app.state.server.in_flight == 0


async def test_without_a_limit_a_request_takes_its_time(engine: Any, serve: Any) -> None:
    engine.script = lambda request: list(LONG[:40])
    engine.delay = 0.02
    async with serve(engine) as client:
        assert (await client.post(PLAIN, json={"prompt": "x", "max_tokens": 60})).status_code == 200
