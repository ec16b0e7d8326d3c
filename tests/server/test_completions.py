"""The completions route, and the tokenizer routes beside it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from .support import BOS


async def test_a_text(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.completions.create(model="fake", prompt="Hi", max_tokens=99)
    assert answer.choices[0].text == engine.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert engine.requests[0].prompt_token_ids == (257, ord("H"), ord("i"))


@pytest.mark.parametrize("prompt", [[72, 105], [[72, 105]]])
async def test_token_ids(openai: AsyncOpenAI, engine: Any, prompt: Any) -> None:
    await openai.completions.create(model="fake", prompt=prompt)
    assert engine.requests[0].prompt_token_ids == (72, 105)


async def test_a_choice_for_each_prompt(openai: AsyncOpenAI, engine: Any) -> None:
    engine.script = lambda request: list(reversed(request.prompt_token_ids[1:]))
    answer = await openai.completions.create(model="fake", prompt=["abc", "xy", "é"], max_tokens=10, seed=1)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "cba"), (1, "yx"), (2, "��")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4 + 3 + 3
    assert answer.usage.completion_tokens == 4 + 3 + 3


async def test_several_prompts_in_a_stream(openai: AsyncOpenAI, engine: Any) -> None:
    engine.script = lambda request: list(request.prompt_token_ids[1:])
    texts = ["abc", "längere", "🙂"]
    stream = await openai.completions.create(
        model="fake", prompt=texts, stream=True, stream_options={"include_usage": True}
    )
    parts = ["", "", ""]
    reasons = []
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            parts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons.append((choice.index, choice.finish_reason))
    assert parts == texts
    assert sorted(reasons) == [(0, "stop"), (1, "stop"), (2, "stop")]
    assert usage is not None
    assert usage.completion_tokens == sum(len(t.encode()) + 1 for t in texts)


async def test_a_text_without_a_limit_has_16_tokens(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.completions.create(model="fake", prompt="Hi")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"
    assert [r.sampling.max_tokens for r in engine.requests] == [16]


async def test_special_tokens_around_a_prompt(client: httpx.AsyncClient, engine: Any) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for fields, begins in ((({"prompt": "x"}), True), (chat, False)):
        route = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
        for asked in (None, True, False):
            body = {**fields, "add_special_tokens": asked}
            assert (await client.post(route, json=body)).status_code == 200
            ids = engine.requests[-1].prompt_token_ids
            assert (ids[0] == BOS) == (begins if asked is None else asked)
            told = (await client.post("/tokenize", json=body)).json()
            assert told["tokens"] == list(ids)


async def test_one_failing_prompt_ends_the_request(client: httpx.AsyncClient, engine: Any) -> None:
    engine.fail_after = 2
    answer = await client.post("/v1/completions", json={"prompt": ["a", "b", "c"]})
    assert answer.status_code == 500
    assert engine.running == {}


async def test_logprobs(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.completions.create(model="fake", prompt="x", logprobs=1, max_tokens=99)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.tokens[:4] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc"]
    assert len(logprobs.tokens) == len(engine.text.encode())
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[:6] == [0, 1, 2, 2, 3, 3]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"A": -1.0, "G": -0.5}
    stream = await openai.completions.create(model="fake", prompt="x", logprobs=1, max_tokens=99, stream=True)
    tokens: list[str] = []
    offsets: list[int] = []
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.logprobs is not None:
                tokens += choice.logprobs.tokens or []
                offsets += choice.logprobs.text_offset or []
    assert tokens == logprobs.tokens
    assert offsets == logprobs.text_offset


async def test_tokenize_and_back(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "aé", "return_token_strs": True})).json()
    assert answer == {
        "count": 4,
        "max_model_len": 256,
        "tokens": [257, 97, 195, 169],
        "token_strs": ["<bos>", "<0x61>", "<0xC3>", "<0xA9>"],
    }
    plain = await client.post("/tokenize", json={"prompt": "aé", "add_special_tokens": False})
    assert plain.json()["tokens"] == [97, 195, 169]
    assert (await client.post("/detokenize", json={"tokens": [97, 195, 169]})).json() == {"prompt": "aé"}


async def test_tokenize_a_conversation(client: httpx.AsyncClient, engine: Any) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    answer = await client.post("/tokenize", json={"messages": messages})
    await client.post("/v1/chat/completions", json={"messages": messages})
    assert answer.json()["tokens"] == list(engine.requests[0].prompt_token_ids)


async def test_a_long_text_is_tokenized_beside_the_loop(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tokenize", json={"prompt": "x" * 100_000})
    assert answer.json()["count"] == 100_001


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, {"prompt": 5}]
)
async def test_bad_tokenize(client: httpx.AsyncClient, body: Any) -> None:
    assert (await client.post("/tokenize", json=body)).status_code == 400


@pytest.mark.parametrize("tokens", [None, "x", ["a"], [-1], [10**9], [1.5]])
async def test_bad_detokenize(client: httpx.AsyncClient, tokens: Any) -> None:
    assert (await client.post("/detokenize", json={"tokens": tokens})).status_code == 400


async def test_max_completion_tokens(client: httpx.AsyncClient) -> None:
    for fields in ({"max_completion_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 5}):
        answer = (await client.post("/v1/completions", json={"prompt": "x", **fields})).json()
        assert answer["usage"]["completion_tokens"] == 3


async def test_more_prompts_than_can_ever_wait(engine: Any, serve: Any) -> None:
    async with serve(engine, max_num_seqs=2, max_queue=1) as client:
        answer = await client.post("/v1/completions", json={"prompt": ["x"] * 4})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "prompt"
        assert "at most 3 in one request" in error["message"]
        answer = await client.post("/v1/completions", json={"prompt": "x", "n": 1, "best_of": 4})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "best_of")
        assert (await client.post("/v1/completions", json={"prompt": ["x"] * 3})).status_code == 200
