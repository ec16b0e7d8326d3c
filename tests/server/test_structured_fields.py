"""The fields of structured output: how they are read, and how they are refused, by name."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_pico import model_path
from entropick_server import offload
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.types import EngineOptions

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"ü": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA, ensure_ascii=False)


def by_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}
    }


async def post(client: httpx.AsyncClient, route: str, **fields: Any) -> httpx.Response:
    body = {"messages": HELLO} if route == CHAT else {"prompt": "Hello"}
    return await client.post(route, json={**body, "max_tokens": 100, **fields})


@pytest.mark.parametrize("route", [CHAT, PLAIN])
@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": None, "guided_json": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Grammar("json_schema", TEXT)),
        (by_schema(SCHEMA), Grammar("json_schema", TEXT)),
        (by_schema(SCHEMA, strict=True, description="d"), Grammar("json_schema", TEXT)),
        (by_schema(True), Grammar("json_schema", "true")),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, Grammar("json_schema", '{"type": "null"}')),
        ({"structured_outputs": {"regex": "a+", "json": None}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "ü"]}}, Grammar("choice", '["a", "ü"]')),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_object")),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"guided_json": SCHEMA}, Grammar("json_schema", TEXT)),
        ({"guided_json": TEXT}, Grammar("json_schema", TEXT)),
        ({"guided_regex": "a+"}, Grammar("regex", "a+")),
        ({"guided_choice": ["a", "b"], "response_format": {"type": "text"}}, Grammar("choice", '["a", "b"]')),
    ],
)
async def test_read(
    client: httpx.AsyncClient, engine: Any, route: str, fields: dict[str, Any], grammar: Grammar | None
) -> None:
    answer = await post(client, route, **fields, n=2)
    assert answer.status_code == 200, answer.text
    made = [request.grammar for request in engine.requests]
    assert len(made) == 2
    assert [None if one is None else one.source for one in made] == [grammar] * 2


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": "json"}, "response_format", "object"),
        ({"response_format": {}}, "response_format.type", "required"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "required",
        ),
        (by_schema("{}"), "response_format.json_schema.schema", "object"),
        (by_schema(SCHEMA, strict="yes"), "response_format.json_schema.strict", "true or false"),
        (by_schema({"type": "strin"}), "response_format.json_schema.schema", "strin"),
        (by_schema({"$ref": "#"}), "response_format.json_schema.schema", "no text follows"),
        (by_schema({"enum": []}), "response_format.json_schema.schema", ""),
        (
            {"response_format": {"type": "json_object", "schema": {"type": 1}}},
            "response_format.schema",
            "",
        ),
        ({"structured_outputs": 1}, "structured_outputs", "object"),
        ({"structured_outputs": {"grammar": "root ::= 'a'"}}, "structured_outputs.grammar", "not served"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not served"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn", "json, regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "together"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_regex",
            "response_format",
        ),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_json": '{"items":' * 9_000 + "1" + "}" * 9_000}, "guided_json", "nested more than 64 deep"),
        ({"guided_json": [1]}, "guided_json", "JSON schema"),
        ({"guided_json": {"type": "string", "minLength": 1000}}, "guided_json", "max_tokens (100)"),
        ({"guided_regex": "a{100}b{1}", "max_tokens": 30}, "guided_regex", "at least 101 characters"),
        ({"guided_regex": "x" * 9000}, "guided_regex", "characters"),
        ({"guided_choice": "a"}, "guided_choice", "list"),
        ({"guided_choice": [1]}, "guided_choice[0]", "string"),
        ({"guided_choice": [""]}, "guided_choice", "not empty"),
        ({"guided_regex": "a", "allowed_token_ids": [97]}, "allowed_token_ids", "guided_regex"),
        ({"guided_grammar": "x"}, "guided_grammar", "not served"),
    ],
)
async def test_refused(
    client: httpx.AsyncClient, engine: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await post(client, CHAT, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert param.partition(".")[0] in error["message"]
    assert not engine.requests
    assert (await post(client, CHAT)).status_code == 200


async def test_a_schema_that_takes_too_long(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "COMPILE_SECONDS", 0.05)
    compiler = client.app.state.server.model.grammars  # type: ignore[attr-defined]
    monkeypatch.setattr(type(compiler), "compile", lambda *_: time.sleep(0.4))
    answer = await post(client, CHAT, guided_regex="a")
    assert answer.status_code == 400
    assert "too long to compile" in answer.json()["error"]["message"]


async def test_other_requests_go_on_while_a_schema_compiles(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = client.app.state.server.model.grammars  # type: ignore[attr-defined]
    compile_one = type(compiler).compile

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.5)
        return compile_one(*arguments)

    monkeypatch.setattr(type(compiler), "compile", slowly)
    waiting = asyncio.create_task(post(client, CHAT, guided_regex="a"))
    await asyncio.sleep(0.05)
    assert (await post(client, CHAT)).status_code == 200
    assert not waiting.done()
    assert (await waiting).status_code == 200


@pytest.fixture
async def real(serve: Callable[..., Any], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    options = EngineOptions(model=str(model_path()), device="cpu", threads=1)
    async with serve(EmbeddedEngine(options, profile_cache=tmp_path), wait=False) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


async def test_what_is_told_of_tokens_without_alternatives(real: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"],
              "additionalProperties": False}  # fmt: skip
    fields = {**by_schema(schema), "temperature": 1, "seed": 3, "entropick": {"telemetry": "tokens"}}
    answer = (await post(real, CHAT, **fields)).json()
    (choice,) = answer["choices"]
    assert json.loads(choice["message"]["content"])["answer"] in ("yes", "no")
    assert choice["finish_reason"] == "stop"
    rows, summary = choice["entropick"]["tokens"], choice["entropick"]["summary"]
    alone = [row for row in rows if row.get("only_choice")]
    assert len(alone) == summary["only_choice_tokens"] > 2
    assert all(row["signals"]["logits_entropy"] == 0 for row in alone)
    others = [row["signals"]["logits_entropy"] for row in rows if "only_choice" not in row]
    assert summary["signals"]["logits_entropy"]["mean"] == pytest.approx(sum(others) / len(others))
    found = (await real.get(f"/v1/requests/{answer['id']}")).json()["choices"][0]
    assert found["series"]["only_choice"] == ["only_choice" in row for row in rows]

    async def last(fields: dict[str, Any]) -> list[str]:
        streamed = await post(real, CHAT, **fields, stream=True)
        events = [e.removeprefix("data: ") for e in streamed.text.strip().split("\n\n")]
        chunks = [json.loads(event) for event in events if event.startswith("{")]
        return [c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]]

    assert "".join(await last(fields)) == choice["message"]["content"]
    # the names of the object are no observations of the model
    page = (await real.get("/metrics")).text
    counted = [x for x in page.splitlines() if x.startswith("entropick_logits_entropy_bits_count")]
    assert sum(float(x.rpartition(" ")[2]) for x in counted) == 2 * len(others)
