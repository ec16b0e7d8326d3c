"""What the routes tell the engine of a request's origin, by which requests take turns."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

PLAIN = "/v1/completions"


def opened_by(app: FastAPI, key_name: str | None) -> Any:
    """The app behind a check of keys that found one of this name."""

    async def keyed(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["key_name"] = key_name
        await app(scope, receive, send)

    return keyed


@pytest.mark.parametrize(("key_name", "share"), [("blue", "blue"), (None, "")])
async def test_a_request_counts_for_the_key_that_opened_it(
    client: httpx.AsyncClient, engine: Any, key_name: str | None, share: str
) -> None:
    transport = httpx.ASGITransport(app=opened_by(client.app, key_name))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = {"model": "fake", "prompt": ["ab", "c"], "n": 2}
        answer = (await client.post(PLAIN, json=body)).raise_for_status().json()
    assert [(r.share, r.answer_id) for r in engine.requests] == [(share, answer["id"])] * 4


async def test_without_keys_all_clients_share(client: httpx.AsyncClient, engine: Any) -> None:
    body = {"model": "fake", "prompt": "ab"}
    answers = [(await client.post(PLAIN, json=body)).raise_for_status().json() for _ in range(2)]
    assert [(r.share, r.answer_id) for r in engine.requests] == [("", a["id"]) for a in answers]


async def test_all_replies_of_a_vote_are_of_one_answer(client: httpx.AsyncClient, engine: Any) -> None:
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hi"}],
        "entropick": {"consensus": {"k": 3, "extract": "text", "stop": "all"}},
    }
    answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    assert [r.answer_id for r in engine.requests] == [answer["id"]] * len(engine.requests)
    assert len(engine.requests) == 3
