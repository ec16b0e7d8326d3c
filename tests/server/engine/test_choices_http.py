"""Several choices through HTTP on the embedded engine: the same text with any n, whole and streamed."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions

from .test_branches_http import BRANCH, gauge

ROUTE = "/v1/completions"
HELLO: Any = [{"role": "user", "content": "Once upon a time"}]
Fields = dict[str, Any]


@pytest.fixture
async def client(
    serve: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    options = EngineOptions(
        model=str(model_folder("llama")),
        device="cpu",
        threads=1,
        calibrate=False,
        use_profile=False,
        max_num_seqs=4,
    )
    engine = EmbeddedEngine(options, profile_cache=tmp_path)
    async with serve(engine, wait=False, max_num_seqs=4, max_queue=20) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


@pytest.fixture
def openai(client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=client, max_retries=0)


def body(**fields: Any) -> Fields:
    return {
        "prompt": "Once upon a time there was",
        "max_tokens": 24,
        "seed": 7,
        "ignore_eos": True,
        "entropick": {"preset": "seed", **fields.pop("entropick", {})},
        **fields,
    }


async def whole(client: httpx.AsyncClient, fields: Fields) -> Fields:
    answer = await client.post(ROUTE, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(answer: Fields) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


async def nothing_left(client: httpx.AsyncClient) -> None:
    for name in ("num_requests_running", "num_requests_waiting"):
        while await gauge(client, f"entropick_{name}"):
            await asyncio.sleep(0.005)
    assert await gauge(client, "entropick_kv_cache_usage_ratio") == 0.0


@pytest.mark.parametrize("more", [{}, {"temperature": 1.5, "top_p": 0.9}, {"entropick": {"branch": BRANCH}}])
async def test_a_choice_has_the_same_text_with_any_n(client: httpx.AsyncClient, more: Fields) -> None:
    # more than slots hold
    nine = await whole(client, body(n=9, **more))
    assert len(set(texts(nine))) > 5
    for n in (1, 3, 4):
        answer = await whole(client, body(n=n, **more))
        assert texts(answer) == texts(nine)[:n]
        assert [c["index"] for c in answer["choices"]] == list(range(n))
        assert answer["usage"]["prompt_tokens"] == nine["usage"]["prompt_tokens"]
        assert answer["usage"]["completion_tokens"] == 24 * n
        lost = [c["entropick"]["summary"]["branch_tokens"] for c in answer["choices"]]
        assert answer["usage"]["completion_tokens_details"] == {"branch_tokens": sum(lost)}
        assert any(lost) == ("entropick" in more)
    await nothing_left(client)


async def test_with_the_openai_package(openai: AsyncOpenAI, client: httpx.AsyncClient) -> None:
    fields: Any = {
        "model": "llama",
        "messages": HELLO,
        "n": 3,
        "max_tokens": 20,
        "seed": 3,
        "extra_body": {"entropick": {"preset": "seed", "telemetry": "tokens"}, "ignore_eos": True},
    }
    answer = await openai.chat.completions.create(**fields)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    stream = await openai.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    )
    parts: list[str] = ["", "", ""]
    rows: list[list[Any]] = [[], [], []]
    reasons: list[tuple[int, str]] = []
    usage = None
    async for chunk in stream:
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
            told: Any = getattr(choice, "entropick", None) or {}
            rows[choice.index] += told.get("tokens", [])
            if choice.finish_reason:
                reasons.append((choice.index, choice.finish_reason))
        if chunk.usage is not None:
            assert usage is None
            usage = chunk.usage
    assert parts == [c.message.content for c in answer.choices]
    assert sorted(reasons) == [(0, "length"), (1, "length"), (2, "length")]
    whole_rows = [c.entropick["tokens"] for c in answer.choices]  # type: ignore[attr-defined]
    assert [[r["token_id"] for r in of] for of in rows] == [[r["token_id"] for r in of] for of in whole_rows]
    assert usage is not None
    assert answer.usage is not None
    assert usage.completion_tokens == answer.usage.completion_tokens == 60
    assert usage.prompt_tokens == answer.usage.prompt_tokens
    alone = await openai.chat.completions.create(**{**fields, "n": 1})
    assert alone.choices[0].message.content == parts[0]
    await nothing_left(client)


async def test_the_prompt_is_computed_and_counted_once(client: httpx.AsyncClient) -> None:
    fields = body(prompt=list(range(100)), max_tokens=5, n=4)
    first = (await whole(client, fields))["usage"]
    assert first["prompt_tokens"] == 100
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    second = (await whole(client, fields))["usage"]
    # the blocks of the first request; the other choices do not count again
    assert second["prompt_tokens_details"] == {"cached_tokens": 96}
    block = (await client.get("/metrics")).text
    assert 'entropick_prompt_tokens_total{model_name="llama"} 200.0' in block
    assert 'entropick_prefix_cache_queries_total{model_name="llama"} 200.0' in block
    assert 'entropick_prefix_cache_hits_total{model_name="llama"} 96.0' in block


async def test_temperature_0_says_the_same_n_times(client: httpx.AsyncClient) -> None:
    for fields in ({"n": 3}, {"n": 2, "best_of": 5}):
        answer = await whole(client, body(temperature=0, **fields))
        assert len(answer["choices"]) == fields["n"]
        assert len(set(texts(answer))) == 1
        told = [c["entropick"]["summary"]["choice"] for c in answer["choices"]]
        assert told == list(range(fields["n"])), "of equals the earlier"


async def test_the_best_of_several(client: httpx.AsyncClient) -> None:
    all_of_them = await whole(client, body(n=6, temperature=1.5, logprobs=0))
    means = [statistics.fmean(c["logprobs"]["token_logprobs"]) for c in all_of_them["choices"]]
    order = sorted(range(6), key=lambda i: -means[i])
    answer = await whole(client, body(n=2, best_of=6, temperature=1.5))
    assert texts(answer) == [texts(all_of_them)[i] for i in order[:2]]
    assert answer["usage"]["completion_tokens"] == 6 * 24
    assert answer["usage"]["completion_tokens_details"]["best_of_tokens"] == 4 * 24
    await nothing_left(client)


async def test_a_stop_string_ends_one_choice(client: httpx.AsyncClient) -> None:
    full = texts(await whole(client, body(n=4, temperature=1.0)))
    # a character that some of them say, and not all
    stop = next(c for c in full[1] if c.isascii() and c.isalnum() and any(c not in text for text in full))
    answer = await whole(client, body(n=4, temperature=1.0, stop=stop))
    assert texts(answer) == [text.partition(stop)[0] for text in full]
    reasons = [c["finish_reason"] for c in answer["choices"]]
    assert reasons == ["stop" if stop in text else "length" for text in full]
    assert set(reasons) == {"stop", "length"}
    await nothing_left(client)


async def test_lists_of_prompts_and_choices(client: httpx.AsyncClient) -> None:
    prompts = ["Once upon", "In the", "x"]
    together = await whole(client, body(prompt=prompts, n=2))
    assert [c["index"] for c in together["choices"]] == list(range(6))
    alone = [await whole(client, body(prompt=prompt, n=2)) for prompt in prompts]
    assert texts(together) == [text for answer in alone for text in texts(answer)]
    for count in ("prompt_tokens", "completion_tokens"):
        assert together["usage"][count] == sum(answer["usage"][count] for answer in alone)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_every_choice(client: httpx.AsyncClient, stream: bool) -> None:
    fields = body(n=9, max_tokens=220, stream=stream)
    task = asyncio.create_task(client.post(ROUTE, json=fields))
    while await gauge(client, "entropick_num_requests_running") < 4:
        await asyncio.sleep(0.005)
        assert not task.done()
    task.cancel()
    await nothing_left(client)


async def test_groups_share_the_queue(client: httpx.AsyncClient) -> None:
    """Three groups of eight fill four places and a queue of twenty replies; the fourth is refused whole."""
    fields = body(n=8, max_tokens=200)
    tasks = [asyncio.create_task(client.post(ROUTE, json=fields)) for _ in range(3)]
    while await gauge(client, "entropick_num_requests_waiting") < 20:
        await asyncio.sleep(0.005)
    refused = await client.post(ROUTE, json=fields)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    answers = [(await task).json() for task in tasks]
    assert texts(answers[0]) == texts(answers[1]) == texts(answers[2])
    await nothing_left(client)
