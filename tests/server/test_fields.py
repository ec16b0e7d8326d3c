"""Every row of the table of request fields behaves as it says, and the table is complete."""

from __future__ import annotations

from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import chat, completion_create_params

import fields_page
from entropick_server.protocol.fields import FIELDS, SERVERS, Field, Place, Standing
from entropick_server.protocol.messages import AssistantMessage, InstructionMessage, ToolMessage, UserMessage
from entropick_server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    StreamOptions,
    TokenizeRequest,
)

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[Place, dict[str, Any]] = {
    Place.CHAT: {"messages": HELLO, "seed": 5, "max_tokens": 8},
    Place.COMPLETIONS: {"prompt": "Hello", "seed": 5, "max_tokens": 8},
    Place.TOKENIZE: {"prompt": "Hello"},
    Place.DETOKENIZE: {"tokens": [72, 105]},
    Place.MESSAGE: {"messages": HELLO, "seed": 5, "max_tokens": 8},
}
MODELS = {
    Place.CHAT: [ChatRequest],
    Place.COMPLETIONS: [CompletionRequest],
    Place.TOKENIZE: [TokenizeRequest],
    Place.DETOKENIZE: [DetokenizeRequest],
    Place.MESSAGE: [InstructionMessage, UserMessage, AssistantMessage, ToolMessage],
}
ODD: dict[str, Any] = {"no": {"such": "value"}}
"""a value that no field takes, and no harmless value"""
ODD_SCHEMA = ["no", "schema"]


def rows(standing: Standing) -> list[Any]:
    return [
        pytest.param(row, place, id=f"{place.value}-{row.name}")
        for row in FIELDS
        if row.standing is standing
        for place in row.places
    ]


async def post(client: httpx.AsyncClient, place: Place, name: str, value: Any) -> httpx.Response:
    body = {**BODIES[place]}
    outer, _, inner = name.partition(".")
    if place is Place.MESSAGE:
        role = "tool" if name == "tool_call_id" else "assistant"
        body["messages"] = [*HELLO, {"role": role, "content": "x", name: value}, *HELLO]
    elif inner and outer in ChatRequest.model_fields:
        body |= {outer: {inner: value}, "stream": True}
    else:
        body[name] = value
    route = Place.CHAT.value if place is Place.MESSAGE else place.value
    return await client.post(route, json=body)


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (400, 404), answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


@pytest.mark.parametrize(("row", "place"), rows(Standing.REFUSED))
async def test_refused(client: httpx.AsyncClient, row: Field, place: Place) -> None:
    refusal = error(await post(client, place, row.name, ODD))
    param = f"messages[1].{row.name}" if place is Place.MESSAGE else row.name
    assert (refusal["param"], refusal["code"]) == (param, "unsupported_parameter")
    assert f"'{param}'" in refusal["message"]
    assert row.instead in refusal["message"]
    for value in (None, *row.harmless):
        answer = await post(client, place, row.name, value)
        assert answer.status_code == 200, (value, answer.text)


@pytest.mark.parametrize(("row", "place"), rows(Standing.SERVED))
async def test_served(client: httpx.AsyncClient, row: Field, place: Place) -> None:
    """A value of no sense is refused, so the field is read; and not as one that is not served."""
    odd = ODD_SCHEMA if row.name == "guided_json" else ODD
    refusal = error(await post(client, place, row.name, odd))
    assert refusal["code"] != "unsupported_parameter"
    assert row.name.rpartition(".")[2] in refusal["param"]


@pytest.mark.parametrize(("row", "place"), rows(Standing.IGNORED))
async def test_ignored(client: httpx.AsyncClient, row: Field, place: Place) -> None:
    def told(answer: httpx.Response) -> Any:
        return [(c["message"] if "message" in c else c["text"]) for c in answer.json()["choices"]]

    plain = told(await post(client, place, "user", "someone"))
    for value in ("x", 5, True, {"a": "b"}, [1], None):
        answer = await post(client, place, row.name, value)
        assert answer.status_code == 200, answer.text
        assert told(answer) == plain


def test_the_table_has_each_field_once() -> None:
    seen = [(place, row.name) for row in FIELDS for place in row.places]
    assert len(seen) == len(set(seen))
    for row in FIELDS:
        assert row.of
        assert set(row.of) <= set(SERVERS)
        assert row.standing is Standing.REFUSED or not (row.harmless or row.instead)


@pytest.mark.parametrize("place", Place)
def test_every_field_of_ours_is_in_the_table(place: Place) -> None:
    ours = {name for model in MODELS[place] for name in model.model_fields}
    if place in (Place.CHAT, Place.COMPLETIONS):
        ours |= {f"stream_options.{name}" for name in StreamOptions.model_fields}
    served = {r.name for r in FIELDS if place in r.places and r.standing is Standing.SERVED}
    assert served == ours


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        (chat.completion_create_params.CompletionCreateParamsBase, Place.CHAT),
        (chat.ChatCompletionStreamOptionsParam, Place.CHAT),
        (completion_create_params.CompletionCreateParamsBase, Place.COMPLETIONS),
        (chat.ChatCompletionSystemMessageParam, Place.MESSAGE),
        (chat.ChatCompletionUserMessageParam, Place.MESSAGE),
        (chat.ChatCompletionAssistantMessageParam, Place.MESSAGE),
        (chat.ChatCompletionToolMessageParam, Place.MESSAGE),
    ],
)
def test_every_field_of_openai_is_in_the_table(theirs: Any, place: Place) -> None:
    inside = "stream_options." if theirs is chat.ChatCompletionStreamOptionsParam else ""
    named = {f"{inside}{name}" for name in get_type_hints(theirs)}
    known = {row.name for row in FIELDS if place in row.places and "O" in row.of}
    assert named <= known | {"stream"}


def test_the_page_is_the_tables() -> None:
    written = fields_page.PAGE.read_text(encoding="utf-8")
    assert written == fields_page.page(), "run: python tools/fields_page.py"


async def test_a_field_inside_another_is_not_that_field(client: httpx.AsyncClient) -> None:
    """``stream_options.echo`` is nobody's; ``metadata`` may hold any name."""
    body = {**BODIES[Place.CHAT], "metadata": {"echo": "true", "tools": "x"}}
    assert (await client.post(Place.CHAT.value, json=body)).status_code == 200
