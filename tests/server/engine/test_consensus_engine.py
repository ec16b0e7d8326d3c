"""Votes through HTTP on the embedded engine: alone as in company, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from .test_branches_http import gauge
from .test_choices_http import ROUTE, Fields, body, client, nothing_left, texts, whole

__all__ = ["client"]

ANY_LETTER: Any = {"extract": {"regex": "[a-zA-Z]"}, "k": 7}


def asked(consensus: Fields | None = None, **fields: Any) -> Fields:
    block = {"telemetry": "full", "consensus": {**ANY_LETTER, **(consensus or {})}}
    return body(entropick=block, **fields)


def told(answer: Fields) -> Fields:
    return answer["choices"][0]["entropick"]  # type: ignore[no-any-return]


async def test_reply_i_is_choice_i(client: httpx.AsyncClient) -> None:
    choices = texts(await whole(client, body(n=7)))
    drawn = told(await whole(client, asked({"first": "sample", "stop": "all"})))["replies"]
    assert [reply["text"] for reply in drawn] == choices
    greedy = texts(await whole(client, body(temperature=0)))
    drawn = told(await whole(client, asked({"stop": "all"})))["replies"]
    assert [reply["text"] for reply in drawn] == [*greedy, *choices[1:]]
    await nothing_left(client)


async def test_the_winner_is_replayed_by_its_summary(client: httpx.AsyncClient) -> None:
    answer = await whole(client, asked({"first": "sample", "stop": "all"}))
    number = told(answer)["summary"]["choice"]
    (winner,) = answer["choices"]
    again = (await whole(client, body(n=number + 1, entropick={"telemetry": "full"})))["choices"][number]
    assert again["text"] == winner["text"]
    rows = [(row["token_id"], row["signals"]) for row in winner["entropick"]["tokens"]]
    assert rows == [(row["token_id"], row["signals"]) for row in again["entropick"]["tokens"]]


@pytest.mark.parametrize("stop", ["all", {"rule": "esc", "window": 2}, "weighted_beta", "cascade"])
async def test_alone_and_in_company(client: httpx.AsyncClient, stop: Any) -> None:
    def one(seed: int) -> Fields:
        # a vote asks for an end within the text, so that some replies are cut and others end
        return asked({"stop": stop, "weight": {"scale": 0.1}}, seed=seed, ignore_eos=False, max_tokens=16)

    alone = [await whole(client, one(seed)) for seed in range(3)]
    together = await asyncio.gather(*(whole(client, one(seed)) for seed in range(3)))
    for a, b in zip(alone, together, strict=True):
        assert texts(a) == texts(b)
        assert told(a)["replies"] == told(b)["replies"]
        assert told(a)["summary"]["consensus"] == told(b)["summary"]["consensus"]
        # what was in the cache depends on who came before
        for answer in (a, b):
            answer["usage"].pop("prompt_tokens_details")
        assert a["usage"] == b["usage"]
    await nothing_left(client)


async def test_usage_adds_up(client: httpx.AsyncClient) -> None:
    answer = await whole(client, asked({"stop": "all"}))
    replies, usage = told(answer)["replies"], answer["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["completion_tokens_details"]["consensus_tokens"] == sum(
        len(reply["token_ids"]) for reply in replies if not reply["chosen"]
    )
    made = await gauge(client, "entropick_generation_tokens_total")
    assert made == sum(len(reply["token_ids"]) for reply in replies) == 7 * 24


async def test_the_prompt_is_computed_once(client: httpx.AsyncClient) -> None:
    """Replies of later waves find the prompt's blocks, though no reply of the first runs any more."""
    prompt = "A prompt of its own that no other test has, and that is long enough for some blocks. " * 2

    stop = {"rule": "esc", "window": 2}
    answer = await whole(client, asked({"stop": stop}, prompt=prompt, max_tokens=4))
    number = answer["usage"]["prompt_tokens"]
    replies = told(answer)["summary"]["consensus"]["replies"]
    assert replies > 2
    queries = await gauge(client, "entropick_prefix_cache_queries_total")
    hits = await gauge(client, "entropick_prefix_cache_hits_total")
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # one reply computes the prompt; whoever looks it up later misses part of a block at most
    assert queries - hits <= number + 16 * replies
    assert hits >= number // 2


async def test_a_stream_says_the_same(client: httpx.AsyncClient) -> None:
    fields = asked({"stop": "weighted_beta"}, logprobs=2, stop=["e"])
    answer = await whole(client, fields)
    text, rows, logprobs, usage, ends = "", [], [], None, []
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", ROUTE, json={**fields, **options}) as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                text += choice["text"]
                rows += choice["entropick"].get("tokens", [])
                logprobs += choice["logprobs"]["token_logprobs"]
                ends += [choice] if choice["finish_reason"] else []
    (choice,) = answer["choices"]
    assert text == choice["text"]
    assert rows == choice["entropick"]["tokens"]
    assert logprobs == choice["logprobs"]["token_logprobs"]
    assert [end["entropick"]["replies"] for end in ends] == [choice["entropick"]["replies"]]
    assert usage is not None
    assert usage["completion_tokens_details"] == answer["usage"]["completion_tokens_details"]
    assert all("e" not in reply["text"] for reply in choice["entropick"]["replies"])


async def test_a_client_that_leaves_frees_every_block(client: httpx.AsyncClient) -> None:
    fields = asked({"stop": "all"}, max_tokens=220, stream=True)

    async def read() -> None:
        async with client.stream("POST", ROUTE, json=fields) as stream:
            await stream.aread()

    task = asyncio.create_task(read())
    while await gauge(client, "entropick_num_requests_running") < 4:
        await asyncio.sleep(0.001)
    assert await gauge(client, "entropick_kv_cache_usage_ratio") > 0
    task.cancel()
    await asyncio.wait({task})
    await nothing_left(client)
    assert (await client.post(ROUTE, json=body())).status_code == 200
