"""Tools with the shipped model, which was trained on them: its own calls, forced calls, answers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import entropick_pico
from entropick_pico.grammar.tools import tool_talk
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions

PICO = Path(entropick_pico.__file__).parent / "model"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def client(serve: Callable[..., Any], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    options = EngineOptions(
        model=str(PICO), device="cpu", threads=1, max_num_seqs=4, decoder="torch", kernels="torch"
    )
    engine = EmbeddedEngine(options, profile_cache=tmp_path)
    async with serve(engine, wait=False) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(CHAT, json={"max_tokens": 80, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return dict(choice)


async def test_calls_and_answers_from_their_results(client: httpx.AsyncClient) -> None:
    """A conversation as agents have it: question, call, result, answer."""
    rng = random.Random(7)
    exact = answered = 0
    for _ in range(12):
        call, report, *_ = tool_talk(rng, "call")
        tools = list(call.tools)
        question = {"role": "user", "content": call.user}
        choice = await ask(client, messages=[question], tools=tools)
        expected = json.loads(call.gold.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        calls = choice["message"].get("tool_calls") or []
        if not calls:
            continue
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        made = {
            "name": calls[0]["function"]["name"],
            "arguments": json.loads(calls[0]["function"]["arguments"]),
        }
        exact += made == expected
        result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": report.user}
        told = await ask(client, messages=[question, choice["message"], result], tools=tools)
        answered += told["message"]["content"] == report.gold
    assert exact >= 9
    assert answered >= 9


async def test_a_forced_call_is_one_of_the_tools(client: httpx.AsyncClient) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"enum": ["beach", "park"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                },
                "required": ["place", "days"],
                "additionalProperties": False,
            },
        },
    }
    now = {"type": "function", "function": {"name": "now"}}
    hello = [{"role": "user", "content": "hello!"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(4):
        fields = {"messages": hello, "tools": [weather, now], "temperature": 1, "seed": seed}
        choice = await ask(client, **fields, tool_choice=named)
        assert choice["finish_reason"] == "tool_calls"
        [call] = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        arguments = json.loads(call["function"]["arguments"])
        assert arguments["place"] in ("beach", "park")
        assert 1 <= arguments["days"] <= 7
        choice = await ask(client, **fields, tool_choice="required", parallel_tool_calls=False)
        [call] = choice["message"]["tool_calls"]
        assert call["function"]["name"] in ("get_weather", "now")
        assert choice["message"]["content"] is None


async def test_forced_calls_show_where_there_was_no_choice(client: httpx.AsyncClient) -> None:
    now = {"type": "function", "function": {"name": "now"}}
    choice = await ask(
        client,
        messages=[{"role": "user", "content": "hello!"}],
        tools=[now],
        tool_choice="required",
        parallel_tool_calls=False,
        entropick={"telemetry": "tokens"},
    )
    rows = choice["entropick"]["tokens"]
    assert sum(bool(row.get("only_choice")) for row in rows) > len(rows) / 2
    assert choice["entropick"]["summary"]["strategies"]["clarify"] == 0


async def test_a_response_calls_answers_and_follows_a_schema(client: httpx.AsyncClient) -> None:
    call, report, *_ = tool_talk(random.Random(3), "call")
    tools = [{"type": "function", **tool["function"]} for tool in call.tools]
    question = {"role": "user", "content": call.user}
    body: dict[str, Any] = {"input": [question], "tools": tools, "temperature": 0, "max_output_tokens": 80}
    first = (await client.post("/v1/responses", json={**body, "tool_choice": "required"})).json()
    [made, *_] = first["output"]
    assert made["type"] == "function_call"
    assert made["name"] in [tool["name"] for tool in tools]
    result = {"type": "function_call_output", "call_id": made["call_id"], "output": report.user}
    told = (await client.post("/v1/responses", json={**body, "input": [question, made, result]})).json()
    assert told["output"][0]["content"][0]["text"]
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["anna", "ben"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "person", "schema": schema}
    answer = await client.post("/v1/responses", json={"input": call.user, "text": {"format": form}})
    said = json.loads(answer.json()["output"][0]["content"][0]["text"])
    assert said["name"] in ("anna", "ben")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_call_goes_with_no_other_form(client: httpx.AsyncClient, stream: bool) -> None:
    now = {"type": "function", "function": {"name": "now"}}
    body = {
        "messages": [{"role": "user", "content": "hello!"}],
        "tools": [now],
        "response_format": {"type": "json_object"},
        "stream": stream,
    }
    answer = await client.post(CHAT, json={**body, "tool_choice": "required"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"
    assert (
        await client.post(CHAT, json={**body, "tool_choice": "none", "max_tokens": 60})
    ).status_code == 200


async def test_a_reply_is_a_call_or_json(client: httpx.AsyncClient) -> None:
    now = {"type": "function", "function": {"name": "now"}}
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["anna", "ben"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    called = told = 0
    for seed in range(8):
        # a bias decides what the first token alone would
        choice = await ask(
            client,
            messages=[{"role": "user", "content": "hello!"}],
            tools=[now],
            parallel_tool_calls=False,
            response_format=form,
            temperature=1,
            seed=seed,
            logit_bias=await _bias(client, "<tool_call>" if seed % 2 else "{"),
        )
        message = choice["message"]
        if calls := message.get("tool_calls"):
            called += 1
            assert choice["finish_reason"] == "tool_calls"
            assert message["content"] is None
            assert [call["function"] for call in calls] == [{"name": "now", "arguments": "{}"}]
        else:
            told += 1
            assert choice["finish_reason"] == "stop"
            assert json.loads(message["content"])["name"] in ("anna", "ben")
    assert (called, told) == (4, 4)


async def _bias(client: httpx.AsyncClient, text: str) -> dict[str, float]:
    answer = await client.post("/tokenize", json={"prompt": text, "add_special_tokens": False})
    return {str(answer.json()["tokens"][0]): 100.0}
