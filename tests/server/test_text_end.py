"""Where a text ends: log probabilities end with it, stop strings and special tokens stay where asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from .support import BOS, EOS, PAIR

PLAIN, CHAT = "/v1/completions", "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    PLAIN: {"prompt": "x", "logprobs": 1},
    CHAT: {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 1},
}


def _rows(choice: dict[str, Any]) -> list[str]:
    rows = choice.get("logprobs") or {}
    return [row["token"] for row in rows["content"]] if "content" in rows else rows.get("tokens", [])


def _text(choice: dict[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta") or choice
    text: str = message.get("content", "") or message.get("text", "")
    return text


async def both(client: httpx.AsyncClient, route: str, **fields: Any) -> tuple[str, list[str]]:
    """Text and tokens of the log probabilities, which are the same in a stream."""
    body = {**BODIES[route], **fields}
    answer = await client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    whole = answer.json()["choices"][0]
    text, tokens, offsets = "", [], []
    streamed = await client.post(route, json={**body, "stream": True})
    for line in streamed.text.split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text += _text(choice)
                tokens += _rows(choice)
                offsets += (choice.get("logprobs") or {}).get("text_offset", [])
    assert (text, tokens) == (_text(whole), _rows(whole))
    if route == PLAIN:
        assert offsets == whole["logprobs"]["text_offset"]
        assert all(offset <= len(text) for offset in offsets)
    return text, tokens


@pytest.mark.parametrize("route", [PLAIN, CHAT])
@pytest.mark.parametrize("per_step", [1, 3])
async def test_log_probabilities_end_where_a_stop_string_ends_the_text(
    client: httpx.AsyncClient, engine: Any, route: str, per_step: int
) -> None:
    engine.per_step = per_step
    engine.script = lambda request: list(b"at Ashfield")
    assert await both(client, route, stop=" Ashf") == ("at", ["a", "t"])
    assert await both(client, route, stop="t A") == ("a", ["a"])
    assert await both(client, route, stop="at") == ("", [])
    # a token that is cut has no row, though some of its text is left
    engine.script = lambda request: [99, PAIR, 0xA9, 100]
    assert await both(client, route, stop="b") == ("ca", ["c"])
    assert await both(client, route, stop="é") == ("cab", ["c"])
    assert await both(client, route, stop="d") == ("cabé", ["c", "bytes:\\x61\\x62\\xc3", "bytes:\\xa9"])


@pytest.mark.parametrize("route", [PLAIN, CHAT])
async def test_a_stop_string_stays(client: httpx.AsyncClient, engine: Any, route: str) -> None:
    engine.script = lambda request: list(b"abcd")
    keep: dict[str, Any] = {"include_stop_str_in_output": True}
    assert await both(client, route, stop="bc", **keep) == ("abc", ["a", "b", "c"])
    assert await both(client, route, stop_token_ids=[99], **keep) == ("abc", ["a", "b", "c"])
    assert await both(client, route, stop_token_ids=[99]) == ("ab", ["a", "b"])
    # the end of a reply is a special token, which has no text
    assert (await both(client, route, **keep))[0] == "abcd"
    assert (await both(client, route, skip_special_tokens=False, **keep))[0] == "abcd<eos>"


@pytest.mark.parametrize("route", [PLAIN, CHAT])
async def test_special_tokens_appear(client: httpx.AsyncClient, engine: Any, route: str) -> None:
    engine.script = lambda request: [97, BOS, 98]
    assert await both(client, route) == ("ab", ["a", "<bos>", "b"])
    assert await both(client, route, skip_special_tokens=False) == ("a<bos>b", ["a", "<bos>", "b"])
    assert await both(client, route, skip_special_tokens=False, stop="<bos>") == ("a", ["a"])


async def test_alternatives_that_spell_the_same_text(client: httpx.AsyncClient, engine: Any) -> None:
    """Two ids of one text: the more probable one's value stays, whichever comes first."""
    plain = engine.token
    engine.script = lambda request: [65]

    def token(request: Any, index: int, token_id: int) -> Any:
        # ids outside the vocabulary have the same, empty text
        tops = ((901, -1.5), (900, -1.0), (902, -3.0))
        return replace(plain(request, index, token_id), top_logprobs=tops)

    engine.token = token
    answer = await client.post(PLAIN, json={"prompt": "x", "logprobs": 3})
    assert answer.json()["choices"][0]["logprobs"]["top_logprobs"] == [{"": -1.0, "A": -0.5}]


async def test_the_emitted_token_alone(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: [65]
    answer = await client.post(PLAIN, json={"prompt": "x", "logprobs": 0})
    assert answer.json()["choices"][0]["logprobs"]["top_logprobs"] == [{"A": -0.5}]
    body = {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 0}
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["logprobs"] is None
    answer = await client.post(CHAT, json={**body, "logprobs": True})
    assert answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_telemetry_keeps_the_rows_of_all_tokens(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: list(b"abcd")
    body = {"prompt": "x", "stop": "cd", "entropick": {"telemetry": "tokens"}}
    answer = (await client.post(PLAIN, json=body)).json()
    rows = answer["choices"][0]["entropick"]["tokens"]
    assert [row["token_id"] for row in rows] == [97, 98, 99, 100]
    assert answer["usage"]["completion_tokens"] == 4
    assert EOS not in {row["token_id"] for row in rows}
