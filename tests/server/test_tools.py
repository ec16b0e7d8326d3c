"""Tools over HTTP: what the template sees, how calls come back, plain and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_server.engine.reply_format.form import CallForm, Reading
from entropick_server.protocol.tools import FunctionDefinition

from .conftest import FakeEngine, Serve, running
from .support import EOS
from .tooling import CALL, NOW, PLAIN, TEMPLATE, WEATHER, Templated

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}


@pytest.fixture
def tokenizer(engine: FakeEngine) -> Templated:
    engine.tokenizer = tokenizer = Templated()
    return tokenizer


@pytest.fixture
async def client(engine: FakeEngine, tokenizer: Templated) -> AsyncIterator[httpx.AsyncClient]:
    async with running(engine) as client:
        yield client


@pytest.fixture
def says(engine: FakeEngine, tokenizer: Templated) -> Any:
    def say(*texts: str) -> None:
        engine.script = lambda request: list(texts[request.choice % len(texts)].encode())

    return say


async def chat(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post("/v1/chat/completions", json={**ASKED, **fields})
    return answer.json()


async def events(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post("/v1/chat/completions", json={**ASKED, **fields, "stream": True})
    assert answer.status_code == 200, answer.text
    data = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n") if e.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [choice for one in data for choice in json.loads(one)["choices"]]


async def test_a_call_comes_back_as_a_call(
    client: httpx.AsyncClient, says: Any, tokenizer: Templated
) -> None:
    says(CALL)
    [choice] = (await chat(client, tools=[WEATHER]))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message
    [call] = message["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}
    _, tools, options = tokenizer.rendered[-1]
    assert tools == [WEATHER]
    assert options == {}


async def test_the_stream_tells_the_same(client: httpx.AsyncClient, says: Any) -> None:
    says(f"<think>Hm.</think>Wait.\n{CALL}\n{NOW}")
    fields: dict[str, Any] = {
        "tools": [WEATHER, PLAIN],
        "logprobs": True,
        "seed": 3,
        "entropick": {"telemetry": "tokens"},
    }
    [whole] = (await chat(client, **fields))["choices"]
    chunks = await events(client, **fields)
    deltas = [chunk["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content") or "" for d in deltas) == whole["message"]["content"] == "Wait."
    reasoning = "".join(d.get("reasoning_content", "") for d in deltas)
    assert reasoning == whole["message"]["reasoning_content"] == "Hm."
    calls = [call for d in deltas for call in d.get("tool_calls", [])]
    assert [c["index"] for c in calls] == [0, 0, 1, 1]
    assert [set(c) for c in calls] == [{"index", "id", "type", "function"}, {"index", "function"}] * 2
    assert [c["function"] for c in calls] == [
        {"name": "weather", "arguments": ""},
        {"arguments": '{"city": "Zürich"}'},
        {"name": "now", "arguments": ""},
        {"arguments": "{}"},
    ]
    assert [c["function"]["name"] for c in whole["message"]["tool_calls"]] == ["weather", "now"]
    assert calls[0]["id"] != calls[2]["id"]
    assert [c["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]
    rows = [row for chunk in chunks for row in chunk.get("entropick", {}).get("tokens", [])]
    assert rows == whole["entropick"]["tokens"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    told = [entry for chunk in chunks for entry in (chunk["logprobs"] or {"content": []})["content"]]
    assert told == whole["logprobs"]["content"]
    assert len(told) == len(rows) - 1


async def test_the_openai_package_reads_it(openai: AsyncOpenAI, says: Any) -> None:
    says(f"{CALL}{NOW}")
    fields: Any = {
        "model": "fake",
        "messages": ASKED["messages"],
        "tools": [WEATHER, PLAIN],
        "max_tokens": 200,
    }
    answer = await openai.chat.completions.create(**fields)
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["weather", "now"]  # type: ignore[union-attr]
    async with openai.chat.completions.stream(**fields) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in streamed] == ['{"city": "Zürich"}', "{}"]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_each_choice_has_its_own_calls(client: httpx.AsyncClient, says: Any) -> None:
    says(CALL, "No tool needed.")
    answer = await chat(client, tools=[WEATHER], n=2)
    first, second = answer["choices"]
    assert first["finish_reason"] == "tool_calls"
    assert second["finish_reason"] == "stop"
    assert second["message"] == {"role": "assistant", "content": "No tool needed.", "refusal": None}
    chunks = await events(client, tools=[WEATHER], n=2)
    assert {c["index"] for c in chunks if "tool_calls" in c["delta"]} == {0}
    assert "".join(c["delta"].get("content") or "" for c in chunks if c["index"] == 1) == "No tool needed."


async def test_a_malformed_call_is_content(client: httpx.AsyncClient, says: Any) -> None:
    says("<tool_call>{weather}</tool_call>")
    [choice] = (await chat(client, tools=[WEATHER]))["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "<tool_call>{weather}</tool_call>"
    chunks = await events(client, tools=[WEATHER])
    assert "".join(c["delta"].get("content") or "" for c in chunks) == choice["message"]["content"]


async def test_a_call_that_max_tokens_cuts_is_content(client: httpx.AsyncClient, says: Any) -> None:
    says(CALL)
    [choice] = (await chat(client, tools=[WEATHER], max_tokens=30))["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == CALL[:30]


async def test_one_call_ends_the_reply(client: httpx.AsyncClient, says: Any, engine: FakeEngine) -> None:
    says(f"{CALL}{NOW}")
    fields: dict[str, Any] = {
        "tools": [WEATHER, PLAIN],
        "parallel_tool_calls": False,
        "entropick": {"telemetry": "tokens"},
    }
    answer = await chat(client, **fields)
    [choice] = answer["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    used = answer["usage"]["completion_tokens"]
    assert used == len(choice["entropick"]["tokens"]) == len(CALL.encode())
    assert engine.closed
    chunks = await events(client, **fields)
    rows = [row for chunk in chunks for row in chunk.get("entropick", {}).get("tokens", [])]
    assert len(rows) == used


async def test_without_tools_calls_are_text(
    client: httpx.AsyncClient, says: Any, tokenizer: Templated
) -> None:
    says(CALL)
    for fields in ({}, {"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}):
        [choice] = (await chat(client, **fields))["choices"]
        assert choice["message"]["content"] == CALL
        assert "tool_calls" not in choice["message"]
        assert tokenizer.rendered[-1][1] == []


async def test_clarifying_texts_are_off_under_tools(
    client: httpx.AsyncClient, says: Any, engine: FakeEngine
) -> None:
    says("Hm.")
    await chat(client, tools=[WEATHER])
    await chat(client)
    assert engine.requests[0].policy.overrides["clarify_budget"] == 0
    assert "clarify_budget" not in engine.requests[1].policy.overrides


async def test_a_template_without_tools_says_so(serve: Serve, engine: FakeEngine) -> None:
    async with serve(engine) as client:
        answer = await client.post("/v1/chat/completions", json={**ASKED, "tools": [WEATHER]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
    assert "chat template has no place for tools" in answer.json()["error"]["message"]


def _tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": "x"}, "tools", "list"),
        ({"tools": [_tool()] * 129}, "tools", "at most 128"),
        ({"tools": [_tool(description="x" * 70_000)]}, "tools[0]", "65536 characters"),
        ({"tools": [_tool(name="a b")]}, "tools[0].function.name", ""),
        ({"tools": [_tool(name="a" * 65)]}, "tools[0].function.name", "64"),
        ({"tools": [_tool(), _tool()]}, "tools", "the name 'f'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
        ({"tools": [_tool(parameters=[])]}, "tools[0].function.parameters", "object"),
        ({"tools": [_tool()], "tool_choice": "any"}, "tool_choice", "must be one of"),
        ({"tools": [_tool()], "tool_choice": {"type": "custom"}}, "tool_choice.type", "'function'"),
        (
            {"tools": [_tool()], "tool_choice": {"type": "allowed_tools"}},
            "tool_choice.allowed_tools",
            "required",
        ),
        (
            {
                "tools": [_tool()],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "g"}}],
                    },
                },
            },
            "tool_choice.allowed_tools.tools[0].function.name",
            "'g'",
        ),
        (
            {"tools": [_tool()], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
            "'g'",
        ),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [_tool()], "parallel_tool_calls": 1}, "parallel_tool_calls", "true or false"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize", "overridden"),
        (
            {"chat_template_kwargs": {"chat_template": "x"}},
            "chat_template_kwargs.chat_template",
            "overridden",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "overridden"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs.bos_token", "overridden"),
        ({"chat_template_kwargs": {"__class__": 1}}, "chat_template_kwargs.__class__", "overridden"),
        ({"chat_template_kwargs": {"n": 1 << 40}}, "chat_template_kwargs.n", "a number"),
        ({"chat_template_kwargs": {"n": {"a": 1}}}, "chat_template_kwargs.n", "a number"),
        ({"chat_template_kwargs": {f"a{n}": 1 for n in range(33)}}, "chat_template_kwargs", "at most 32"),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient, tokenizer: Templated, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await client.post("/v1/chat/completions", json={**ASKED, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


async def test_variables_of_the_template(client: httpx.AsyncClient, says: Any, tokenizer: Templated) -> None:
    says("Four.")
    options = {"enable_thinking": False, "budget": 3, "names": ["a"]}
    [choice] = (await chat(client, chat_template_kwargs=options))["choices"]
    assert tokenizer.rendered[-1][2] == options
    assert choice["message"] == {"role": "assistant", "content": "Four.", "refusal": None}


async def test_a_forced_call_is_no_reasoning(
    client: httpx.AsyncClient, says: Any, engine: FakeEngine
) -> None:
    says(CALL)
    opened = {"chat_template_kwargs": {"enable_thinking": True}, "tools": [WEATHER]}
    [choice] = (await chat(client, **opened))["choices"]
    assert choice["message"]["reasoning_content"] == CALL
    for wanted in ("required", {"type": "function", "function": {"name": "weather"}}):
        [choice] = (await chat(client, **opened, tool_choice=wanted))["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert "reasoning_content" not in choice["message"]
        assert engine.requests[-1].grammar is not None
    assert engine.requests[0].grammar is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_the_prompt_of_tokenize_is_that_of_chat(
    client: httpx.AsyncClient, says: Any, tokenizer: Templated, path: str
) -> None:
    says("Hm.")
    options = {"enable_thinking": False}
    answer = await client.post(
        path, json={"messages": ASKED["messages"], "tools": [WEATHER], "chat_template_kwargs": options}
    )
    assert answer.status_code == 200
    assert tokenizer.rendered[-1][1:] == ([WEATHER], options)


async def test_the_summary_tells_reasoning_from_the_rest(client: httpx.AsyncClient, says: Any) -> None:
    says("<think>Hmm.</think>Four.")
    fields: dict[str, Any] = {"seed": 7, "entropick": {"telemetry": "tokens"}}
    [choice] = (await chat(client, **fields))["choices"]
    summary, rows = choice["entropick"]["summary"], choice["entropick"]["tokens"]
    phases = summary["phases"]
    reasoning = len("<think>Hmm.</think>")
    assert phases["reasoning"]["tokens"] == reasoning
    assert phases["content"]["tokens"] == len(rows) - reasoning
    for name, part in (("reasoning", rows[:reasoning]), ("content", rows[reasoning:])):
        values = [row["signals"]["logits_entropy"] for row in part]
        told = phases[name]["signals"]["logits_entropy"]
        assert told["max"] == max(values)
        assert told["mean"] == pytest.approx(sum(values) / len(values))
        labels = [row["strategy"] for row in part]
        assert all(count == labels.count(label) for label, count in phases[name]["strategies"].items())
    says("Four.")
    [choice] = (await chat(client, **fields))["choices"]
    assert "phases" not in choice["entropick"]["summary"]


async def test_a_vote_yields_to_tools(serve: Serve, engine: FakeEngine, says: Any) -> None:
    says(CALL)
    async with serve(engine, consensus={"k": 3, "extract": "text"}) as client:
        [choice] = (await chat(client, tools=[WEATHER]))["choices"]
        assert choice["finish_reason"] == "tool_calls"
        refused = await client.post(
            "/v1/chat/completions",
            json={**ASKED, "tools": [WEATHER], "entropick": {"consensus": {"k": 3, "extract": "text"}}},
        )
        assert refused.json()["error"]["param"] == "tools"


async def test_a_vote_of_replies_that_reason(client: httpx.AsyncClient, says: Any) -> None:
    says("<think>A.</think>Four.", "<think>B.</think>Four.", "<think>C.</think>Five.")
    fields: dict[str, Any] = {"entropick": {"consensus": {"k": 3, "extract": "first_sentence"}}}
    [choice] = (await chat(client, **fields))["choices"]
    assert choice["message"]["content"] == "Four."
    assert choice["entropick"]["summary"]["consensus"]["answer"] == "four"
    chunks = await events(client, **fields)
    assert "".join(c["delta"].get("content") or "" for c in chunks) == "Four."


def test_the_end_token_is_none_of_the_marks() -> None:
    assert EOS not in Reading.of(TEMPLATE, {}).marks


async def test_calls_beside_json(client: httpx.AsyncClient, says: Any, engine: FakeEngine) -> None:
    json_only: dict[str, Any] = {"tools": [WEATHER], "response_format": {"type": "json_object"}}
    opened = {"chat_template_kwargs": {"enable_thinking": True}}
    for text, reason in ((CALL, "tool_calls"), ('{"a": "<tool_call>"}', "stop")):
        says(text)
        [choice] = (await chat(client, **json_only, **opened))["choices"]
        assert choice["finish_reason"] == reason
        assert choice["message"]["content"] == (None if reason == "tool_calls" else text)
        assert "reasoning_content" not in choice["message"]
        grammar = engine.requests[-1].grammar
        assert grammar is not None
        assert grammar.source.kind == "tag"
    # without a grammar of its own a call is text
    [choice] = (await chat(client, **json_only, tool_choice="none"))["choices"]
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs", "not together with tools"),
        ({"guided_choice": ["a"]}, "guided_choice", "not together with tools"),
        (
            {"response_format": {"type": "json_object"}, "tool_choice": "required"},
            "response_format",
            "not together with tool_choice",
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"pattern": "("}}},
            "response_format.schema",
            "",
        ),
    ],
)
async def test_forms_that_do_not_go_with_calls(
    client: httpx.AsyncClient, tokenizer: Templated, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await client.post("/v1/chat/completions", json={**ASKED, "tools": [WEATHER], **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]


async def test_calls_of_bare_json_do_not_go_with_json(
    serve: Serve, engine: FakeEngine, tokenizer: Templated
) -> None:
    bare = CallForm('{"name": "', '", "parameters": ', "}", None)
    tokenizer.form = replace(tokenizer.form, call_form=bare)
    body = {**ASKED, "tools": [WEATHER], "response_format": {"type": "json_object"}}
    async with serve(engine) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"


NAMES = [{"type": "function", "function": {"name": "weather"}}]


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses"])
async def test_several_tools_allowed_of_all(
    client: httpx.AsyncClient, says: Any, tokenizer: Templated, engine: FakeEngine, mode: str, route: str
) -> None:
    """As pydantic-ai asks for them."""
    says(CALL)
    if route == "/v1/responses":
        flat = [{"type": "function", **tool["function"]} for tool in (WEATHER, PLAIN)]
        choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "weather"}]}
        body: dict[str, Any] = {"input": "Hi", "tools": flat, "tool_choice": choice}
    else:
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": NAMES}}
        body = {**ASKED, "tools": [WEATHER, PLAIN], "tool_choice": choice}
    answer = await client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    assert [tool["function"]["name"] for tool in tokenizer.rendered[-1][1]] == ["weather"]
    grammar = engine.requests[-1].grammar
    assert (grammar is not None) == (mode == "required")
    assert grammar is None or "now" not in grammar.source.text


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        ({"type": "object", "properties": {}}, True),
        ({"properties": {"a": {"type": "string"}}}, True),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}, "additionalProperties": True}, False),
        ({"type": "object", "properties": {}, "anyOf": [{"required": ["b"]}]}, False),
    ],
)
def test_a_forced_call_has_no_argument_that_is_not_declared(parameters: Any, closed: bool) -> None:
    function = FunctionDefinition(name="f", parameters=parameters)
    assert (function.schema_of_forced_arguments.get("additionalProperties") is False) == closed
    assert "additionalProperties" not in function.schema_of_arguments or not closed
