"""The chat route as OpenAI's own client sees it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_server.engine.types import GenerationDefaults

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


async def chunks(openai: AsyncOpenAI, **fields: Any) -> list[Any]:
    stream = await openai.chat.completions.create(model="fake", messages=HELLO, stream=True, **fields)
    return [chunk async for chunk in stream]


async def test_a_whole_answer(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.chat.completions.create(model="fake", messages=HELLO)
    choice = answer.choices[0]
    assert choice.message.content == engine.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(engine.text.encode()) + 1
    assert answer.usage.prompt_tokens == len(b"user: Hello\n")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_says_the_same(openai: AsyncOpenAI, engine: Any) -> None:
    seen = await chunks(openai, stream_options={"include_usage": True})
    assert seen[0].choices[0].delta.role == "assistant"
    assert seen[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in seen[:-1]) == engine.text
    assert [c.choices[0].finish_reason for c in seen[:-1]] == [None] * (len(seen) - 2) + ["stop"]
    assert seen[-1].choices == []
    assert seen[-1].usage.completion_tokens == len(engine.text.encode()) + 1
    assert {c.object for c in seen} == {"chat.completion.chunk"}
    assert len({c.id for c in seen}) == 1
    assert not any("�" in (c.choices[0].delta.content or "") for c in seen[:-1])


async def test_no_usage_chunk_unless_asked(openai: AsyncOpenAI) -> None:
    seen = await chunks(openai)
    assert all(c.choices and c.usage is None for c in seen)


async def test_the_stream_ends_with_done(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_length(openai: AsyncOpenAI, field: str) -> None:
    answer = await openai.chat.completions.create(model="fake", messages=HELLO, extra_body={field: 2})
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "Gr"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize("per_step", [1, 3, 50])
async def test_stop_string(openai: AsyncOpenAI, engine: Any, per_step: int) -> None:
    engine.per_step = per_step
    answer = await openai.chat.completions.create(model="fake", messages=HELLO, stop=["nope", "from 北"])
    assert answer.choices[0].message.content == "Grüße 🙂 "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    # what the engine made beyond the stop string does not count
    assert answer.usage.completion_tokens == len("Grüße 🙂 from 北".encode())
    assert engine.closed == [engine.requests[0].request_id]
    seen = await chunks(openai, stop="from 北")
    assert "".join(c.choices[0].delta.content or "" for c in seen) == "Grüße 🙂 "
    assert seen[-1].choices[0].finish_reason == "stop"


async def test_stop_token_id_has_no_text(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.chat.completions.create(
        model="fake", messages=HELLO, extra_body={"stop_token_ids": [ord("f")]}
    )
    assert answer.choices[0].message.content == "Grüße 🙂 "
    assert engine.requests[0].sampling.stop_token_ids == (256, ord("f"))


async def test_ignore_eos(openai: AsyncOpenAI, engine: Any) -> None:
    await openai.chat.completions.create(model="fake", messages=HELLO, extra_body={"ignore_eos": True})
    assert engine.requests[0].sampling.stop_token_ids == ()


async def test_logprobs(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.chat.completions.create(model="fake", messages=HELLO, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert bytes(b for entry in logprobs.content for b in entry.bytes or []) == engine.text.encode()
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["A", "B"]
    seen = await chunks(openai, logprobs=True, top_logprobs=2)
    streamed = [e for c in seen if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert streamed == logprobs.content


async def test_logprobs_without_alternatives(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(model="fake", messages=HELLO, logprobs=True, max_tokens=1)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].top_logprobs == []


async def test_text_parts_and_developer(openai: AsyncOpenAI, engine: Any) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    await openai.chat.completions.create(model="fake", messages=messages)
    prompt = engine.tokenizer.decode(list(engine.requests[0].prompt_token_ids), skip_special_tokens=True)
    assert prompt == "system: be brief\nuser: a\nb\n"


async def test_silent_fields_reach_the_engine_as_none(
    openai: AsyncOpenAI, client: httpx.AsyncClient, engine: Any
) -> None:
    _use_defaults(client, GenerationDefaults(0.6, 0.9, 20, 5))
    await openai.chat.completions.create(model="fake", messages=HELLO)
    sent = engine.requests[0].sampling
    assert (sent.temperature, sent.top_p, sent.top_k, sent.min_p) == (None, None, None, None)
    assert sent.max_tokens == 5


@pytest.mark.parametrize("policy", ["fixed", "edt", "mirostat"])
async def test_under_ordinary_samplers_the_models_own_defaults_count(
    openai: AsyncOpenAI, client: httpx.AsyncClient, engine: Any, policy: str
) -> None:
    _use_defaults(client, GenerationDefaults(0.6, 0.9, 20, None))
    body = {"entropick": {"policy": policy}, "top_k": 7}
    await openai.chat.completions.create(model="fake", messages=HELLO, extra_body=body)
    sent = engine.requests[0].sampling
    assert (sent.temperature, sent.top_p, sent.top_k, sent.min_p) == (0.6, 0.9, 7, None)
    assert sent.max_tokens == 256 - 12
    assert sent.repetition_penalty == 1.0
    _use_defaults(client, GenerationDefaults(min_p=0.1, repetition_penalty=1.2))
    for more, wanted in ({}, (0.1, 1.2)), ({"min_p": 0.0, "repetition_penalty": 1.5}, (0.0, 1.5)):
        await openai.chat.completions.create(model="fake", messages=HELLO, extra_body={**body, **more})
        sent = engine.requests[-1].sampling
        assert (sent.min_p, sent.repetition_penalty) == wanted
    await openai.chat.completions.create(model="fake", messages=HELLO)
    sent = engine.requests[-1].sampling
    assert (sent.min_p, sent.repetition_penalty) == (None, 1.0)


async def test_the_log_says_which_numbers_of_the_model_do_not_hold(
    engine: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine.info = dataclasses.replace(engine.info, defaults=GenerationDefaults(0.6, 1.0, 20, 9, 0.05, 1.1))
    async with serve(engine, policy="fixed"):
        assert "generation_config" not in caplog.text
    async with serve(engine):
        pass
    assert "temperature 0.6, top_k 20, min_p 0.05, repetition_penalty 1.1 do not hold" in caplog.text


async def test_client_fields_reach_the_engine(openai: AsyncOpenAI, engine: Any) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "entropick": {"preset": "seed", "overrides": {"greedy_entropy": 0.2}}}
    await openai.chat.completions.create(
        model="fake", messages=HELLO, temperature=0, top_p=0.5, seed=-(2**63), extra_body=extra
    )
    request = engine.requests[0]
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.0, 0.5, 5)
    assert request.sampling.min_p == 0.1
    assert request.sampling.seed == -(2**63)
    assert request.policy.overrides == {"greedy_entropy": 0.2}


async def test_harmless_fields_pass(client: httpx.AsyncClient) -> None:
    body = {
        "messages": HELLO,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "n": 1,
        "best_of": None,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "no_such_field": 1,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


def _use_defaults(client: httpx.AsyncClient, defaults: GenerationDefaults) -> None:
    state = client.app.state.server  # type: ignore[attr-defined]
    info = dataclasses.replace(state.model.info, defaults=defaults)
    state._model = dataclasses.replace(state.model, info=info)


async def test_a_failure_in_mid_stream_is_an_event(client: httpx.AsyncClient, engine: Any) -> None:
    engine.fail_after = 3
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO, "stream": True})
    assert answer.status_code == 200
    events = answer.text.strip().split("\n\n")
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error == {
        "message": "logits were NaN",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }
    engine.fail_after = None
    assert (await client.post("/v1/chat/completions", json={"messages": HELLO})).status_code == 200


async def test_a_failure_without_stream_is_a_500(client: httpx.AsyncClient, engine: Any) -> None:
    engine.fail_after = 3
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"
    assert engine.running == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_a_503(client: httpx.AsyncClient, engine: Any, stream: bool) -> None:
    engine.full = True
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO, "stream": stream})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    engine.full = False
    answer = await client.post("/v1/chat/completions", json={"messages": HELLO, "stream": stream})
    assert answer.status_code == 200
