"""What must be refused, how, and that the next good request is served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from entropick_sampler.params import PARAM_NAMES

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]


async def refused(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert len(error["message"]) < 1000
    if param is not None:
        assert error["param"] == param
    return error


@pytest.fixture(autouse=True)
async def _next_request_is_served(client: httpx.AsyncClient) -> AsyncIterator[None]:
    yield
    assert (await client.post(CHAT, json={"messages": HELLO})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"messages": [',
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"temperature": NaN, "messages": []}',
        b'{"temperature": Infinity, "messages": []}',
        b'{"unknown": -Infinity, "messages": []}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
    ids=range(16),
)
@pytest.mark.parametrize("route", [CHAT, PLAIN, "/tokenize", "/detokenize"])
async def test_bodies_that_are_no_json_object(client: httpx.AsyncClient, route: str, body: bytes) -> None:
    answer = await client.post(route, content=body, headers={"Content-Type": "application/json"})
    await refused(answer, 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "", "application/xml", "x"]
)
async def test_content_type(client: httpx.AsyncClient, kind: str) -> None:
    content = json.dumps({"messages": HELLO})
    await refused(await client.post(CHAT, content=content, headers={"Content-Type": kind}), 415)


async def test_a_charset_is_no_reason_to_refuse(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await client.post(CHAT, content=json.dumps({"messages": HELLO}), headers=headers)
    assert answer.status_code == 200


async def test_a_body_over_the_cap(engine: Any, serve: Any) -> None:
    async with serve(type(engine)(), max_body_bytes=1 << 16) as client:
        read = []

        async def big(pieces: int) -> AsyncIterator[bytes]:
            for n in range(pieces):
                read.append(n)
                yield b" " * (1 << 15)

        headers = {"Content-Type": "application/json"}
        error = await refused(await client.post(CHAT, content=b" " * (1 << 17), headers=headers), 413)
        assert error["code"] == "body_too_large"
        # chunked: no length is declared, the cap holds while it arrives; the rest is read and dropped
        await refused(await client.post(CHAT, content=big(8), headers=headers), 413)
        assert len(read) == 8
        # but not for ever
        for declared in ({}, {"Content-Length": str(1 << 30)}):
            read.clear()
            answer = await client.post(CHAT, content=big(1000), headers={**headers, **declared})
            await refused(answer, 413)
            assert 8 < len(read) < 24


async def test_a_client_that_waits_with_a_body_over_the_cap_sends_nothing(engine: Any, serve: Any) -> None:
    async with serve(type(engine)(), max_body_bytes=1 << 16) as client:

        async def body() -> AsyncIterator[bytes]:
            raise AssertionError("nobody asked for the body")
            yield b""

        headers = {"Expect": "100-continue", "Content-Length": str(1 << 20)}
        await refused(await client.post(CHAT, content=body(), headers=headers), 413)


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": 1e9}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1e18}, "max_tokens"),
    ({"max_tokens": 10**18}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["x"] * 1000}, "stop"),
    ({"stop": ["x" * 257]}, "stop[0]"),
    ({"stop": 1}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [10**6]}, "stop_token_ids"),
    ({"stop_token_ids": ["1"]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": False, "stream_options": {}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"model": 5}, "model"),
    ({"n": 0}, "n"),
    ({"n": 10**6}, "n"),
    ({"n": 17}, "n"),
    ({"n": 99}, "n"),
    ({"n": -1}, "n"),
    ({"n": "2"}, "n"),
    ({"n": 1.5}, "n"),
    ({"n": True}, "n"),
    ({"best_of": 10**6}, "best_of"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": "2"}, "best_of"),
    ({"best_of": True}, "best_of"),
    ({"best_of": 2, "n": 3}, "best_of"),
    ({"best_of": 2, "n": 17}, "best_of"),
    ({"best_of": 3, "n": 2, "stream": True}, "best_of"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 1e9}}, "logit_bias"),
    ({"logit_bias": {str(n): 1 for n in range(100_000)}}, "logit_bias"),
    ({"logit_bias": {"1.0": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"²": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 400: 1}}, "logit_bias"),
    ({"logit_bias": {"1": 1, "01": 2}}, "logit_bias"),
    ({"logit_bias": {"1": -100.1}}, "logit_bias"),
    ({"logit_bias": {"1": "1"}}, "logit_bias"),
    ({"logit_bias": {"1": True}}, "logit_bias"),
    ({"logit_bias": {"1": None}}, "logit_bias"),
    ({"logit_bias": {"1": 10**400}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"frequency_penalty": "1"}, "frequency_penalty"),
    ({"presence_penalty": -2.1}, "presence_penalty"),
    ({"presence_penalty": True}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": -1}, "repetition_penalty"),
    ({"repetition_penalty": 100.1}, "repetition_penalty"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 1.5}, "min_tokens"),
    ({"min_tokens": 10**18}, "min_tokens"),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
    ({"min_tokens": 2, "allowed_token_ids": [256]}, "min_tokens"),
    ({"bad_words": "x"}, "bad_words"),
    ({"bad_words": [1]}, "bad_words[0]"),
    ({"bad_words": [""]}, "bad_words[0]"),
    ({"bad_words": ["  "]}, "bad_words"),
    ({"bad_words": ["x"] * 129}, "bad_words"),
    ({"bad_words": ["x" * 257]}, "bad_words[0]"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
    ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
    ({"allowed_token_ids": [10**30]}, "allowed_token_ids"),
    ({"allowed_token_ids": ["1"]}, "allowed_token_ids[0]"),
    ({"allowed_token_ids": [1] * (2**18 + 1)}, "allowed_token_ids"),
    ({"allowed_token_ids": [120], "bad_words": ["x"]}, "allowed_token_ids"),
    ({"response_format": {"type": "json_objects"}}, "response_format.type"),
    ({"tools": {"type": "function"}}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"audio": {}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"prediction": {}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"chat_template_kwargs": ["tokenize"]}, "chat_template_kwargs"),
    ({"guided_json": {"$ref": "#"}}, "guided_json"),
    ({"echo": "yes"}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"entropick": 1}, "entropick"),
    ({"entropick": {"polcy": "fixed"}}, "entropick.polcy"),
    ({"entropick": {"policy": "other"}}, "entropick.policy"),
    ({"entropick": {"branch": 3}}, "entropick.branch"),
    ({"entropick": {"branch": []}}, "entropick.branch"),
    ({"entropick": {"branch": {"width": 1}}}, "entropick.branch.width"),
    ({"entropick": {"branch": {"width": 17}}}, "entropick.branch.width"),
    ({"entropick": {"branch": {"width": True}}}, "entropick.branch.width"),
    ({"entropick": {"branch": {"width": "4"}}}, "entropick.branch.width"),
    ({"entropick": {"branch": {"depth": 2.5}}}, "entropick.branch.depth"),
    ({"entropick": {"branch": {"depth": 10**400}}}, "entropick.branch.depth"),
    ({"entropick": {"branch": {"budget": -1}}}, "entropick.branch.budget"),
    ({"entropick": {"branch": {"depth": 5000}}}, "entropick.branch.depth"),
    ({"entropick": {"branch": {"until": ""}}}, "entropick.branch.until"),
    ({"entropick": {"branch": {"until": 3}}}, "entropick.branch.until"),
    ({"entropick": {"branch": {"until": "x" * 65}}}, "entropick.branch.until"),
    ({"entropick": {"branch": {"min_entropy": 65}}}, "entropick.branch.min_entropy"),
    ({"entropick": {"branch": {"min_runner_up": -0.1}}}, "entropick.branch.min_runner_up"),
    ({"entropick": {"branch": {"min_runner_up": None}}}, "entropick.branch.min_runner_up"),
    ({"entropick": {"branch": {"scorer": "best"}}}, "entropick.branch.scorer"),
    ({"entropick": {"branch": {"scorer": {}}}}, "entropick.branch.scorer"),
    ({"entropick": {"branch": {"on": ["clarify"]}}}, "entropick.branch.on"),
    ({"entropick": {"branch": {"on": [{}]}}}, "entropick.branch.on"),
    ({"entropick": {"branch": {"on": None}}}, "entropick.branch.on"),
    ({"entropick": {"branch": {"widht": 3}}}, "entropick.branch.widht"),
    ({"entropick": {"policy": "fixed", "branch": {}}}, "entropick.branch"),
    ({"entropick": {"policy": "top_n_sigma", "branch": {}}}, "entropick.branch"),
    ({"entropick": {"policy": "mirostat2"}}, "entropick.policy"),
    ({"entropick": {"policy": "edt", "overrides": {"edt_base": 1.5}}}, "entropick.overrides.edt_base"),
    ({"entropick": {"overrides": {"top_n_sigma": "1"}}}, "entropick.overrides.top_n_sigma"),
    ({"entropick": {"overrides": {"mirostat_ta": 1}}}, "entropick.overrides.mirostat_ta"),
    ({"entropick": {"telemetry": "all"}}, "entropick.telemetry"),
    ({"entropick": {"genuineness": "true"}}, "entropick.genuineness"),
    ({"entropick": {"genuineness": 1}}, "entropick.genuineness"),
    ({"entropick": {"preset": "calibrated"}}, "entropick.preset"),
    ({"entropick": {"overrides": {"greedy_entrop": 1}}}, "entropick.overrides.greedy_entrop"),
    ({"entropick": {"overrides": {"greedy_entropy": "1"}}}, "entropick.overrides.greedy_entropy"),
    ({"entropick": {"overrides": {"greedy_entropy": True}}}, "entropick.overrides.greedy_entropy"),
    ({"entropick": {"overrides": {"top_p": 7}}}, "entropick.overrides.top_p"),
    ({"entropick": {"overrides": {"top_k": 1.5}}}, "entropick.overrides.top_k"),
    ({"entropick": {"overrides": []}}, "entropick.overrides"),
]


def _name(value: object) -> str | None:
    return json.dumps(value)[:60] if isinstance(value, dict) else None


@pytest.mark.parametrize(("fields", "param"), FIELDS, ids=_name)
@pytest.mark.parametrize("route", [CHAT, PLAIN])
async def test_fields(client: httpx.AsyncClient, route: str, fields: dict[str, Any], param: str) -> None:
    good: dict[str, Any] = {"messages": HELLO} if route == CHAT else {"prompt": "Hello"}
    error = await refused(await client.post(route, json={**good, **fields}), 400, param)
    assert param.partition("[")[0].rpartition(".")[2] in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
async def test_chat_fields(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    await refused(await client.post(CHAT, json={"messages": HELLO, **fields}), 400, param)


@pytest.mark.parametrize("logprobs", [21, -1, True, "1"])
async def test_completion_logprobs(client: httpx.AsyncClient, logprobs: Any) -> None:
    await refused(await client.post(PLAIN, json={"prompt": "x", "logprobs": logprobs}), 400, "logprobs")


IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
FILE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "Hello",
        [123],
        [{}],
        [None],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "robot", "content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": [IMAGE]}],
        [{"role": "user", "content": [FILE]}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 1}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
        [{"role": "assistant", "content": "the template refuses this one"}],
    ],
    ids=range(20),
)
@pytest.mark.parametrize("route", [CHAT, "/tokenize"])
async def test_messages(client: httpx.AsyncClient, route: str, messages: Any) -> None:
    body = {} if messages is None else {"messages": messages}
    error = await refused(await client.post(route, json=body), 400)
    assert "169.254" not in error["message"]
    assert "passwd" not in error["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        "",
        [],
        [""],
        [[]],
        [1, "a"],
        [[1], "a", 2],
        {"a": 1},
        5,
        [True],
        [1.0],
        [-1],
        [10**6],
        ["x"] * 65,
    ],
    ids=repr,
)
async def test_prompts(client: httpx.AsyncClient, prompt: Any) -> None:
    await refused(await client.post(PLAIN, json={"prompt": prompt}), 400, "prompt")


async def test_no_prompt(client: httpx.AsyncClient) -> None:
    error = await refused(await client.post(PLAIN, json={}), 400, "prompt")
    assert error["message"] == "prompt: is required."


async def test_over_the_context(client: httpx.AsyncClient) -> None:
    error = await refused(
        await client.post(PLAIN, json={"prompt": "x" * 100, "max_tokens": 200}), 400, "max_tokens"
    )
    assert error["code"] == "context_length_exceeded"
    assert all(number in error["message"] for number in ("256", "101", "200"))
    error = await refused(await client.post(PLAIN, json={"prompt": "x" * 300}), 400, "prompt")
    assert error["code"] == "context_length_exceeded"
    assert "301" in error["message"]
    messages = [{"role": "user", "content": "x" * 20_000}]
    await refused(await client.post(CHAT, json={"messages": messages}), 400, "messages")


async def test_the_field_that_asks_for_too_much_is_named(client: httpx.AsyncClient) -> None:
    for route, good in ((CHAT, {"messages": HELLO}), (PLAIN, {"prompt": "x"})):
        for field in ("max_tokens", "max_completion_tokens"):
            error = await refused(await client.post(route, json={**good, field: 256}), 400, field)
            assert f"256 by {field}" in error["message"]
            assert error["message"].startswith("This model's maximum context length is 256 tokens. However, ")


async def test_the_context_can_be_filled(client: httpx.AsyncClient) -> None:
    answer = await client.post(PLAIN, json={"prompt": "x" * 250, "max_tokens": 5})
    assert answer.status_code == 200


@pytest.mark.parametrize("route", [CHAT, PLAIN, "/tokenize", "/detokenize"])
async def test_unknown_model(client: httpx.AsyncClient, route: str) -> None:
    bodies: dict[str, Any] = {CHAT: {"messages": HELLO}, "/detokenize": {"tokens": [1]}}
    body = bodies.get(route, {"prompt": "x"})
    error = await refused(await client.post(route, json={**body, "model": "gpt-9"}), 404, "model")
    assert error["code"] == "model_not_found"
    error = await refused(await client.post(route, json={**body, "model": "g" * 10_000}), 404)
    assert "ggg" not in error["message"]


async def test_unknown_option_names_the_nearest(client: httpx.AsyncClient) -> None:
    body = {"messages": HELLO, "entropick": {"telemetri": "full"}}
    error = await refused(await client.post(CHAT, json=body), 400)
    assert "'telemetry'" in error["message"]


async def test_input_is_not_echoed(client: httpx.AsyncClient) -> None:
    long = "z" * 5000
    for fields in (
        {"entropick": {long: 1}},
        {"entropick": {"policy": long}},
        {"entropick": {"overrides": {long: 1}}},
        {"stop": [long]},
        {"messages": [{"role": long, "content": "x"}]},
        {"temperature": long},
    ):
        error = await refused(await client.post(CHAT, json={"messages": HELLO, **fields}), 400)
        assert "z" * 100 not in json.dumps(error)


HUGE = 10**400
MORE = 10**4200


@pytest.mark.parametrize("number", [HUGE, -HUGE, MORE, -MORE], ids=["big", "small", "bigger", "smaller"])
@pytest.mark.parametrize("route", [CHAT, PLAIN])
async def test_numbers_of_many_digits(client: httpx.AsyncClient, route: str, number: int) -> None:
    good: dict[str, Any] = {"messages": HELLO} if route == CHAT else {"prompt": "Hello"}
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens")
    fields: list[dict[str, Any]] = [{name: number} for name in names]
    fields += [{"stop_token_ids": [number]}, {"logprobs": number}]
    fields += [{"n": number}, {"best_of": number}, {"n": number, "best_of": number}]
    fields += [{"entropick": {"overrides": {name: number}}} for name in PARAM_NAMES]
    for one in fields:
        error = await refused(await client.post(route, json={**good, **one}), 400)
        assert "0" * 41 not in error["message"]


@pytest.mark.parametrize("number", [HUGE, -HUGE])
async def test_token_ids_of_many_digits(client: httpx.AsyncClient, number: int) -> None:
    await refused(await client.post("/detokenize", json={"tokens": [number]}), 400, "tokens")
    await refused(await client.post(PLAIN, json={"prompt": [number]}), 400, "prompt")


async def test_what_is_echoed_is_cut_and_escaped(client: httpx.AsyncClient) -> None:
    for name in ("a\nb\x1b[31m\u202e:\x00", "\x07" * 5000, "z" * 5000):
        for block in ({name: 1}, {"overrides": {name: 1}}, {"overrides": {name: "x"}}):
            error = await refused(await client.post(CHAT, json={"messages": HELLO, "entropick": block}), 400)
            assert error["message"].isprintable()
            assert error["param"].isprintable()
            assert len(error["param"]) < 80
            assert "z" * 41 not in error["message"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages: must have at least 1 in its list."),
        ({"stop": ["x"] * 17}, "stop: may have at most 16 in its list."),
        ({"stop": [""]}, "stop[0]: must not be empty."),
        ({"temperature": 3}, "temperature: must be at most 2."),
        ({"temperature": 10**400}, "temperature: is too large."),
        ({"top_p": 0}, "top_p: must be greater than 0."),
        ({"top_k": 1.5}, "top_k: must be a whole number."),
        ({"stream": 1}, "stream: must be true or false."),
        ({"n": 0}, "n: must be at least 1."),
        ({"n": 99}, "n: must be at most 16 (the server's max_n)."),
        ({"n": "2"}, "n: must be a whole number."),
        (
            {"best_of": 2},
            "'best_of' is not served; use n, or /v1/completions.",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id: is required.",
        ),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role: must be one of 'system', 'developer', 'user', 'assistant' or 'tool'.",
        ),
    ],
)
async def test_refusals_are_in_plain_words(
    client: httpx.AsyncClient, fields: dict[str, Any], message: str
) -> None:
    error = await refused(await client.post(CHAT, json={"messages": HELLO, **fields}), 400)
    assert error["message"] == message


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "שלום ‏abc",
        "🙂👩‍👩‍👧‍👦",
        "\u2028\u2029",
        "﻿",
        "e\u0301",
        "\U0010ffff",
        "<script>alert(1)</script>",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_odd_text_is_served(client: httpx.AsyncClient, text: str, stream: bool) -> None:
    body = {"messages": [{"role": "user", "content": text}], "stream": stream}
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200
    answer.content.decode("utf-8", errors="strict")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/", 405),
        ("GET", "/page", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/requests/x", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/requests/other", 404),
        ("GET", "/health/", 404),
        ("OPTIONS", CHAT, 405),
    ],
)
async def test_routes(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    await refused(await client.request(method, path), status)


@pytest.mark.parametrize("given", ["a\nb", "a b", "x" * 65, "ä", "a;b", "<script>"])
async def test_request_ids_that_are_replaced(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/health", headers=[(b"X-Request-Id", given.encode())])
    assert answer.headers["x-request-id"] != given
    assert answer.headers["x-request-id"].startswith("req-")


async def test_request_ids_that_come_back(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/nope"):
        answer = await client.get(path, headers={"X-Request-Id": "A-b_c.9"})
        assert answer.headers["x-request-id"] == "A-b_c.9"
