"""The last message of a conversation left open, as vLLM has it: what the prompt is, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

CHAT = "/v1/chat/completions"
OPEN = {"continue_final_message": True, "add_generation_prompt": False}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, I am"}]


async def test_the_prompt_ends_with_the_last_message(client: httpx.AsyncClient, engine: Any) -> None:
    answer = await client.post(CHAT, json={"messages": TURNS, **OPEN})
    assert answer.status_code == 200
    assert bytes(engine.requests[-1].prompt_token_ids) == b"user: Hi\nassistant: Hello, I am"
    # the reply is what is new, as in other servers
    assert answer.json()["choices"][0]["message"]["content"] == engine.text
    ids = (await client.post("/tokenize", json={"messages": TURNS, **OPEN})).json()["tokens"]
    assert tuple(ids) == engine.requests[-1].prompt_token_ids
    await client.post(CHAT, json={"messages": TURNS, "add_generation_prompt": False})
    assert bytes(engine.requests[-1].prompt_token_ids).endswith(b"I am\n")


@pytest.mark.parametrize("route", [CHAT, "/tokenize"])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"continue_final_message": True}, "add_generation_prompt, which is true unless"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "not together with"),
        ({**OPEN, "messages": [*TURNS[:1], {"role": "assistant", "content": " "}]}, "last message is empty"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, route: str, fields: Any, words: str) -> None:
    answer = await client.post(route, json={"messages": TURNS, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "continue_final_message")
    assert words in error["message"]
