"""Refusing is cheap: what holds too much is refused before it is parsed, and the first error ends a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from entropick_server.protocol import bounds, parsing
from entropick_server.protocol.bounds import LIMITS, MAX_FIELDS, ORDINARY, Budget, check_shape
from entropick_server.protocol.errors import ApiError
from entropick_server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from entropick_server.protocol.responses_api import ResponsesRequest

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HEADERS = {"Content-Type": "application/json"}
ASK = b'"messages":[{"role":"user","content":"Hello"}]'
MILLION = 1_000_000


def many(item: bytes, number: int = MILLION) -> bytes:
    return b"[" + b",".join([item] * number) + b"]"


def field(name: str, value: bytes) -> bytes:
    return b'{%s,"%s":%s}' % (ASK, name.encode(), value)


def entries(number: int) -> bytes:
    return b"{" + b",".join(b'"%d":1' % n for n in range(number)) + b"}"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the sizes of the bodies that were parsed."""
    sizes: list[int] = []

    def counted(data: bytes, **options: Any) -> Any:
        sizes.append(len(data))
        return pydantic_core.from_json(data, **options)

    monkeypatch.setattr(parsing, "from_json", counted)
    return sizes


UNPARSED = [
    (CHAT, field("stop", many(b"1")), "stop", "8192 values"),
    (CHAT, field("stop", many(b'""')), "stop", "8192 values"),
    (CHAT, field("stop_token_ids", many(b"[]")), "stop_token_ids", "8192 values"),
    (CHAT, field("of_nobody", many(b"[]")), "of_nobody", "8192 values"),
    (CHAT, field("metadata", entries(200_000)), "metadata", "8192 values"),
    (CHAT, field("logit_bias", entries(200_000)), "logit_bias", "8192 values"),
    (CHAT, field("entropick", b'{"overrides":%s}' % entries(200_000)), "entropick", "1024 lists, objects"),
    (CHAT, field("entropick", b'{"branch":{"on":%s}}' % many(b"1")), "entropick", "131072 values"),
    (CHAT, field("tools", many(b"{}")), "tools", "65536 values"),
    (CHAT, field("response_format", b'{"schema":%s}' % many(b"{}")), "response_format", "65536 values"),
    (CHAT, field("guided_choice", many(b'"a"')), "guided_choice", "65536 values"),
    (CHAT, field("chat_template_kwargs", b'{"a":%s}' % many(b"1")), "chat_template_kwargs", "8192 values"),
    (CHAT, field("allowed_token_ids", many(b"1")), "allowed_token_ids", "524288 values"),
    (CHAT, b'{"messages":%s}' % many(b"{}"), "messages", "65536 values"),
    (CHAT, b'{"messages":[{"role":"user","content":%s}]}' % many(b"{}"), "messages", "65536 values"),
    (CHAT, b'{"messages":[{"role":"user","content":%s}]}' % many(b"1"), "messages", "65536 values"),
    (TEXT, b'{"prompt":%s}' % many(b'"a"', 900_000), "prompt", "1024 lists, objects and strings"),
    (TEXT, b'{"prompt":%s}' % many(b"1"), "prompt", "524288 values"),
    (TEXT, b'{"prompt":%s}' % many(b"[1]"), "prompt", "1024 lists, objects and strings"),
    ("/tokenize", b'{"messages":%s}' % many(b"{}"), "messages", "65536 values"),
    ("/tokenize", b'{"prompt":%s}' % many(b"[]"), "prompt", "1024 lists, objects and strings"),
    ("/detokenize", b'{"tokens":%s}' % many(b'""'), "tokens", "1024 lists, objects and strings"),
    ("/detokenize", b'{"tokens":%s}' % many(b"1"), "tokens", "524288 values"),
    (RESPONSES, b'{"input":%s}' % many(b"{}"), "input", "65536 values"),
    (RESPONSES, b'{"input":"a","include":%s}' % many(b"1"), "include", "8192 values"),
    (RESPONSES, b'{"input":"a","metadata":{"a":%s}}' % many(b"1"), "metadata", "8192 values"),
    (CHAT, entries(200_000), None, "512 fields"),
    (CHAT, b'{"stop":1,' + b'"stop":[1,1,1,1],' * 4_000 + ASK + b"}", None, "512 fields"),
    (CHAT, b"{" + (b'"stop":[%s1],' % (b"1," * 500)) * 100 + ASK + b"}", "stop", "8192 values"),
    (CHAT, many(b"[]"), None, "8192 values"),
    (CHAT, b'{"a\\"b":' + many(b"[]") + b"}", "ab", "8192 values"),
]


@pytest.mark.parametrize(("route", "body", "param", "words"), UNPARSED, ids=range(len(UNPARSED)))
async def test_a_body_that_holds_too_much_is_not_parsed(
    client: httpx.AsyncClient, parsed: list[int], route: str, body: bytes, param: str | None, words: str
) -> None:
    answer = await client.post(route, content=body, headers=HEADERS)
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]
    assert parsed == []


FEW = [
    (CHAT, field("stop", many(b"1", 8_000)), "stop", "at most 16"),
    (CHAT, field("stop", many(b"1", 16)), "stop[0]", "must be a string"),
    (CHAT, field("stop_token_ids", many(b'""', 8_000)), "stop_token_ids", "at most 64"),
    (CHAT, field("bad_words", many(b"[]", 4_000)), "bad_words", "at most 128"),
    (CHAT, field("allowed_token_ids", many(b"1.5", 262_144)), "allowed_token_ids[0]", "whole number"),
    (CHAT, field("allowed_token_ids", many(b"1", 262_145)), "allowed_token_ids", "at most 262144"),
    (CHAT, field("guided_choice", many(b"1", 30_000)), "guided_choice", "at most 5000"),
    (CHAT, field("logit_bias", entries(4_000)), "logit_bias", "at most 1024"),
    (CHAT, field("tools", many(b"{}", 30_000)), "tools", "at most 128"),
    (CHAT, field("chat_template_kwargs", entries(4_000)), "chat_template_kwargs", "at most 32"),
    (
        CHAT,
        field("entropick", b'{"rewind":{"token_ids":%s}}' % many(b"1.5", 131_000)),
        "entropick.rewind.token_ids[0]",
        "whole number",
    ),
    (
        CHAT,
        field("entropick", b'{"layer_entropy":{"layers":%s}}' % many(b"1", 131_000)),
        "entropick.layer_entropy.layers",
        "at most 128",
    ),
    (CHAT, b'{"messages":%s}' % many(b"{}", 30_000), "messages", "at most 4096"),
    (
        CHAT,
        b'{"messages":%s}' % many(b'{"role":"user","content":1}', 4_096),
        "messages[0].content",
        "must be a string",
    ),
    (
        CHAT,
        b'{"messages":[{"role":"user","content":%s}]}' % many(b"1", 4_096),
        "messages[0].content[0]",
        "must be an object",
    ),
    (TEXT, b'{"prompt":%s}' % many(b"1.5", 500_000), "prompt", "at most 64"),
    (TEXT, b'{"prompt":%s}' % many(b'"a"', 1_000), "prompt", "at most 64"),
    ("/detokenize", b'{"tokens":%s}' % many(b"1.5", 500_000), "tokens[0]", "whole number"),
    (RESPONSES, b'{"input":%s}' % many(b'{"type":"message"}', 4_096), "input[0].role", "required"),
    (RESPONSES, b'{"input":%s}' % many(b'{"type":"message"}', 5_000), "input", "at most 4096"),
]


@pytest.mark.parametrize(("route", "body", "param", "words"), FEW, ids=range(len(FEW)))
async def test_the_first_wrong_item_of_a_list_ends_it(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    body: bytes,
    param: str,
    words: str,
) -> None:
    built = []
    refusal = parsing._refusal

    def counted(error: ValidationError) -> ApiError:
        built.append(error.error_count())
        return refusal(error)

    monkeypatch.setattr(parsing, "_refusal", counted)
    answer = await client.post(route, content=body, headers=HEADERS)
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    # an item may lack two fields; no list has the errors of two items
    assert sum(built) <= 2


def lists_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Goes through all schemas of lists inside of a pydantic schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for name, inner in schema.items():
            if name not in ("json_schema_input_schema", "metadata"):  # for the document alone
                yield from lists_of(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            yield from lists_of(inner)


@pytest.mark.parametrize(
    "model", [ChatRequest, CompletionRequest, ResponsesRequest, TokenizeRequest, DetokenizeRequest]
)
def test_every_list_of_every_body_is_bounded(model: type[BaseModel]) -> None:
    # a list of anything builds no errors; its field checks its length itself
    found = [
        s for s in lists_of(model.__pydantic_core_schema__) if s.get("items_schema", {}).get("type") != "any"
    ]
    assert found
    assert all(s.get("fail_fast") and s.get("max_length") for s in found), found


HONEST = {
    "ids": (TEXT, {"prompt": [97] * 131_072, "truncate_prompt_tokens": 8}),
    "text": (TEXT, {"prompt": 'a, [b], {"c": 1}\\ ' * 150_000, "truncate_prompt_tokens": 8}),
    "messages": (
        CHAT,
        {"messages": [{"role": "user", "content": "Hello"}] * 500, "truncate_prompt_tokens": 8},
    ),
    "parts": (
        CHAT,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 4_096}],
            "truncate_prompt_tokens": 8,
        },
    ),
    "items": (RESPONSES, {"input": [{"role": "user", "content": "a"}] * 500, "truncate_prompt_tokens": 8}),
    "tokenize": ("/tokenize", {"prompt": "a" * 1_000_000}),
    "detokenize": ("/detokenize", {"tokens": [97] * 500_000}),
}


@pytest.mark.parametrize("name", HONEST)
async def test_a_large_honest_body_is_served(client: httpx.AsyncClient, name: str) -> None:
    route, body = HONEST[name]
    content = json.dumps({**body, **({} if "tokenize" in name else {"max_tokens": 1})}).encode()
    if route == RESPONSES:
        content = content.replace(b'"max_tokens"', b'"max_output_tokens"')
    answer = await client.post(route, content=content, headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text[:300]


async def test_arguments_of_past_calls_are_counted_together(client: httpx.AsyncClient) -> None:
    def calls(arguments: str, number: int = 1) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return {"messages": [{"role": "assistant", "tool_calls": [call]}] * number}

    lists = "[" + ",".join(["[]"] * 20_000) + "]"
    for body in (calls('{"a": %s}' % ("[" * 70_000)), calls(f'{{"a": {lists}}}', 3)):
        answer = await client.post(CHAT, json=body)
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error["param"].endswith("tool_calls[0].function.arguments")
        assert "65536 values" in error["message"]
    # commas inside of a text are no values
    answer = await client.post(CHAT, json=calls(json.dumps({"file": "a,[b],{c}," * 50_000, "q": '\\"'})))
    assert "65536 values" not in answer.text


# a plain reference of the count: by the parsed value
def held(value: Any) -> tuple[int, int]:
    values = objects = 0
    stack = [value]
    while stack:
        at = stack.pop()
        if isinstance(at, dict | list):
            values += 1 + max(0, len(at) - 1)
            objects += 1 + (len(at) if isinstance(at, dict) else 0)
            stack += at.values() if isinstance(at, dict) else at
        elif isinstance(at, str):
            objects += 1
    return values, objects


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\,[]{}: ', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"\\:[', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(
    body=st.dictionaries(st.sampled_from(["stop", "prompt", "zz", "a b"]), JSON, min_size=1),
    block=st.integers(2, 40),
)
def test_the_count_is_exact(body: dict[str, Any], block: int) -> None:
    data = json.dumps(body).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "_BLOCK", block)
        count = bounds._Count()
        for part in bounds._without_escapes(data):
            count.add(part)
    names = list(body)
    for name in names:
        values, objects = held(body[name])
        # the comma behind a field, and the name of the next, count for it; the first name for the body
        last = name == names[-1]
        assert count._held[name] == (values + (not last), objects + (not last)), (data, name)


@given(text=st.text('a"\\,[]{}: ', max_size=60), block=st.integers(2, 20))
def test_a_budget_counts_what_is_outside_of_strings(text: str, block: int) -> None:
    data = json.dumps([text, {"k": [text, 1]}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "_BLOCK", block)
        Budget(5).take(data)
        with pytest.raises(ValueError, match="at most 4 values"):
            Budget(4).take(data)


@pytest.mark.parametrize("limit", [ORDINARY, *LIMITS.values()])
def test_the_limits_hold_to_the_value(limit: bounds.Limit) -> None:
    name = next((n for n, known in LIMITS.items() if known is limit or known == limit), "zz")
    ok = b'{"%s":%s}' % (name.encode(), many(b"1", limit.values))
    check_shape(ok)
    with pytest.raises(ApiError, match=f"{name}: may hold at most {limit.values} values"):
        check_shape(b'{"%s":%s}' % (name.encode(), many(b"1", limit.values + 1)))


def test_a_body_that_is_no_json_is_left_to_the_parser() -> None:
    make: list[Callable[[], bytes]] = [
        lambda: b'"' * 10_000,
        lambda: b"\\" * 10_000,
        lambda: b'{"a' * 4_000,
        lambda: b":" * 10_000,
        lambda: b"\xff" * 20_000,
        lambda: b'{"' + b"a" * 20_000,
    ]
    for body in make:
        check_shape(body())
    assert MAX_FIELDS == 512
