"""POST /v1/responses: items in, items out, and the events of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from .conftest import FakeEngine, running
from .tooling import CALL, NOW, WEATHER, Templated

ROUTE = "/v1/responses"
TOOL = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
CLOCK = {"type": "function", "name": "now"}


@pytest.fixture
def tokenizer(engine: FakeEngine) -> Templated:
    engine.tokenizer = tokenizer = Templated()
    return tokenizer


@pytest.fixture
async def client(engine: FakeEngine, tokenizer: Templated) -> AsyncIterator[httpx.AsyncClient]:
    async with running(engine) as client:
        yield client


@pytest.fixture
def says(engine: FakeEngine) -> Any:
    def say(text: str) -> None:
        engine.script = lambda request: list(text.encode())

    return say


async def create(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post(ROUTE, json={"input": "Hi", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    answer = await client.post(ROUTE, json={"input": "Hi", "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        told.append(event)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


async def test_a_text(client: httpx.AsyncClient, says: Any, tokenizer: Templated) -> None:
    says("Four.")
    response = await create(client, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["id"].startswith("resp_")
    [item] = response["output"]
    assert item["type"] == "message"
    assert item["content"] == [{"type": "output_text", "text": "Four.", "annotations": [], "logprobs": []}]
    assert response["usage"]["output_tokens"] == 6
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 6
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert response["instructions"] == "Be brief."
    assert response["metadata"] == {"a": "b"}
    assert response["temperature"] == 0.5
    assert response["entropick"]["summary"]["policy"] == "entropix"
    roles = [message["role"] for message in tokenizer.rendered[-1][0]]
    assert roles == ["system", "user"]


async def test_the_openai_package_reads_it(openai: AsyncOpenAI, says: Any) -> None:
    says(f"<think>Hm.</think>So.\n{CALL}{NOW}")
    fields: Any = {"model": "fake", "input": "Hi", "tools": [TOOL, CLOCK]}
    response = await openai.responses.create(**fields)
    assert response.output_text == "So."
    kinds = [item.type for item in response.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    call: Any = response.output[2]
    assert json.loads(call.arguments) == {"city": "Zürich"}
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == len("<think>Hm.</think>")
    async with openai.responses.stream(**fields) as stream:
        names = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    assert [item.type for item in final.output] == kinds
    assert final.output_text == "So."


async def test_the_events_are_those_of_openai(client: httpx.AsyncClient, says: Any) -> None:
    says(f"<think>Hm.</think>So.\n{CALL}")
    told = await events(client, tools=[TOOL], entropick={"telemetry": "tokens"}, seed=5)
    names = [event["type"].removeprefix("response.") for event in told]
    assert sorted(set(names), key=names.index) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "completed",
    ]
    added = [event for event in told if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert [event["item"]["type"] for event in added] == ["reasoning", "message", "function_call"]
    assert all(event["item"]["status"] == "in_progress" for event in added)
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    final = told[-1]["response"]
    assert final["output"] == done
    for item, event in zip(done, added, strict=True):
        assert item["id"] == event["item"]["id"]
    text = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    assert text == done[1]["content"][0]["text"] == "So."
    rows = [row for event in told if "delta" in event for row in event.get("entropick", {}).get("tokens", [])]
    every = final["entropick"]["tokens"]
    assert rows == every[: len(rows)]
    assert len(every) == final["usage"]["output_tokens"]
    whole = await create(client, tools=[TOOL], entropick={"telemetry": "tokens"}, seed=5)
    assert whole["entropick"] == final["entropick"]


async def test_a_cut_response_is_incomplete(client: httpx.AsyncClient, says: Any) -> None:
    says("One two three.")
    response = await create(client, max_output_tokens=3)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    told = await events(client, max_output_tokens=3)
    assert told[-1]["type"] == "response.incomplete"


async def test_an_empty_reply_is_an_empty_message(client: httpx.AsyncClient, says: Any) -> None:
    says("")
    [item] = (await create(client))["output"]
    assert item["content"][0]["text"] == ""


async def test_log_probabilities(client: httpx.AsyncClient, says: Any) -> None:
    says("Four.")
    asked: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    [item] = (await create(client, **asked))["output"]
    rows = item["content"][0]["logprobs"]
    assert [row["token"] for row in rows] == list("Four.")
    assert all(len(row["top_logprobs"]) == 2 for row in rows)
    told = await events(client, **asked)
    streamed = [row for event in told if "delta" in event for row in event["logprobs"]]
    assert streamed == rows


async def test_items_become_a_conversation(
    client: httpx.AsyncClient, says: Any, tokenizer: Templated
) -> None:
    says("Sunny.")
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'},
        {"type": "function_call", "call_id": "c2", "name": "now", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
    ]
    await create(client, input=items, tools=[TOOL, CLOCK])
    messages, tools, _ = tokenizer.rendered[-1]
    assert [tool["function"]["name"] for tool in tools] == ["weather", "now"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "tool"]
    said = messages[2]
    assert said["content"] == "I look."
    assert said["reasoning_content"] == "Hm."
    assert [call["function"]["arguments"] for call in said["tool_calls"]] == [{"city": "Bern"}, {}]
    assert [(m["tool_call_id"], m["content"]) for m in messages[3:]] == [("c1", "sun"), ("c2", "noon")]


async def test_the_output_can_be_sent_back(client: httpx.AsyncClient, says: Any) -> None:
    says(f"<think>Hm.</think>So. {CALL}")
    first = await create(client, tools=[TOOL])
    call = first["output"][-1]
    back = [
        {"role": "user", "content": "Hi"},
        *first["output"],
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sun"},
    ]
    says("Sunny.")
    assert (await create(client, input=back, tools=[TOOL]))["output"][0]["content"][0]["text"] == "Sunny."


async def test_fields_of_a_chat_request_mean_the_same(
    client: httpx.AsyncClient, says: Any, engine: FakeEngine
) -> None:
    says("Four. Five.")
    response = await create(client, seed=11, top_k=5, stop=[" Five"], store=True, user="x")
    assert response["output"][0]["content"][0]["text"] == "Four."
    assert response["store"] is False
    assert engine.requests[-1].sampling.seed == 11
    assert engine.requests[-1].sampling.top_k == 5


async def test_the_form_of_the_text_is_a_grammar(
    client: httpx.AsyncClient, says: Any, engine: FakeEngine
) -> None:
    says('{"a": 1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}
    response = await create(client, text={"format": form})
    assert response["text"]["format"] == form
    assert engine.requests[-1].grammar is not None
    await create(client, text={"format": {"type": "text"}})
    assert engine.requests[-1].grammar is None
    # with tools, the reply is JSON or a call
    beside = {"tools": [TOOL], "text": {"format": {"type": "json_object"}}}
    told = await create(client, **beside)
    assert [item["type"] for item in told["output"]] == ["message"]
    assert told["output"][0]["content"][0]["text"] == '{"a": 1}'
    grammar = engine.requests[-1].grammar
    assert grammar is not None
    assert grammar.source.kind == "tag"
    refused = await client.post(ROUTE, json={"input": "Hi", "tool_choice": "required", **beside})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "["}]}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10_000}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": "x"}, "top_k"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"mirostat": 2}, "mirostat"),
        ({"entropick": {"consensus": {"k": 3}}}, "entropick.consensus"),
        ({"entropick": {"polcy": "fixed"}}, "entropick.polcy"),
    ],
)
async def test_what_is_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await client.post(ROUTE, json={"input": "Hi", **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)
    assert error["message"]


async def test_the_openai_package_knows_the_refusal(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        await openai.responses.create(model="fake", input="Hi", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


async def test_a_failure_in_the_stream_is_told(
    client: httpx.AsyncClient, says: Any, engine: FakeEngine
) -> None:
    says("One two three.")
    engine.fail_after = 4
    told = await events(client)
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["status"] == "failed"
    assert "NaN" in told[-1]["response"]["error"]["message"]
    engine.fail_after = 0
    answer = await client.post(ROUTE, json={"input": "Hi", "stream": True})
    assert answer.status_code == 500


async def test_it_is_remembered_like_others(client: httpx.AsyncClient, says: Any) -> None:
    says("Four.")
    response = await create(client)
    found = await client.get(f"/v1/requests/{response['id']}")
    assert found.status_code == 200
    assert found.json()["choices"][0]["route"] == ROUTE
