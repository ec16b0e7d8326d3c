"""Branches through HTTP: what is told of them, in whole answers and in streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions

ROUTE = "/v1/completions"
BRANCH = {"width": 3, "depth": 5, "on": ["adaptive", "greedy", "explore", "high_uncertainty"], "budget": 4}
Fields = dict[str, Any]


@pytest.fixture
async def client(
    serve: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    options = EngineOptions(
        model=str(model_folder("llama")), device="cpu", threads=1, calibrate=False, use_profile=False
    )
    async with serve(EmbeddedEngine(options, profile_cache=tmp_path), wait=False) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


def body(**fields: Any) -> Fields:
    block = {"preset": "seed", "telemetry": "full", "branch": BRANCH, **fields.pop("entropick", {})}
    return {
        "prompt": "Once upon",
        "max_tokens": 33,
        "seed": 7,
        "ignore_eos": True,
        "entropick": block,
        **fields,
    }


async def whole(client: httpx.AsyncClient, fields: Fields) -> Fields:
    answer = await client.post(ROUTE, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def streamed(client: httpx.AsyncClient, fields: Fields) -> tuple[str, list[Fields], Fields, Fields]:
    """Text, rows, the last chunk's choice, usage."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post(ROUTE, json={**fields, **options})
    events = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n")]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    usage = chunks.pop()["usage"]
    choices = [chunk["choices"][0] for chunk in chunks]
    rows = [row for c in choices for row in c.get("entropick", {}).get("tokens", [])]
    return "".join(c["text"] for c in choices), rows, choices[-1], usage


async def test_every_branch_is_told(client: httpx.AsyncClient) -> None:
    answer = await whole(client, body())
    choice, usage = answer["choices"][0], answer["usage"]
    rows = choice["entropick"]["tokens"]
    assert usage["completion_tokens"] == len(rows) == 33
    assert choice["finish_reason"] == "length"
    opened = [row for row in rows if "branches" in row]
    assert [row["index"] for row in opened] == [0, 5, 10, 15, 20, 25, 30]
    lost, kept = 0, []
    for row in opened:
        branches = row["branches"]
        assert len(branches) == 3
        chosen = [b["chosen"] for b in branches].index(True)
        kept.append(chosen)
        assert sum(b["chosen"] for b in branches) == 1
        assert branches[chosen]["score"] == max(b["score"] for b in branches)
        said = [r["token_id"] for r in rows[row["index"] : row["index"] + 5]]
        assert branches[chosen]["token_ids"] == said
        for branch in branches:
            known = bytes(i for i in branch["token_ids"] if i < 256)
            assert branch["text"] == known.decode("utf-8", "replace")
        lost += sum(len(b["token_ids"]) for b in branches if not b["chosen"])
    assert any(kept)
    assert lost == 2 * 33
    assert usage["completion_tokens_details"] == {"branch_tokens": lost}
    assert choice["entropick"]["summary"]["branch_tokens"] == lost
    assert usage["total_tokens"] == usage["prompt_tokens"] + 33
    kept_requests = (await client.get("/v1/requests")).json()
    text = json.dumps(kept_requests)
    assert f'"branch_tokens": {lost}' in text
    metrics = (await client.get("/metrics")).text
    assert f'entropick_branch_tokens_total{{model_name="llama"}} {lost}.0' in metrics
    others = sum(k > 0 for k in kept)
    assert f'entropick_branch_rollouts_total{{kept="other",model_name="llama"}} {others}.0' in metrics
    assert 'entropick_generation_tokens_total{model_name="llama"} 33.0' in metrics

    text, rows_streamed, last, usage_streamed = await streamed(client, body())
    assert text == choice["text"]
    assert [(r["index"], r["token_id"], r.get("branches")) for r in rows_streamed] == [
        (r["index"], r["token_id"], r.get("branches")) for r in rows
    ]
    assert last["entropick"]["summary"]["branch_tokens"] == lost
    assert usage_streamed["completion_tokens_details"] == {"branch_tokens": lost}


async def test_branches_to_the_end_of_the_reply(client: httpx.AsyncClient) -> None:
    branch = {**BRANCH, "depth": None, "until": "end", "scorer": "mean_excess"}
    answer = await whole(client, body(entropick={"branch": branch}))
    choice, usage = answer["choices"][0], answer["usage"]
    rows = choice["entropick"]["tokens"]
    (opening,) = [row for row in rows if "branches" in row]
    assert opening["index"] == 0
    assert [len(b["token_ids"]) for b in opening["branches"]] == [33, 33, 33]
    assert usage["completion_tokens_details"] == {"branch_tokens": 66}
    text, rows_streamed, _, usage_streamed = await streamed(client, body(entropick={"branch": branch}))
    assert (text, len(rows_streamed), usage_streamed) == (choice["text"], 33, usage)
    # a stop string ends the branches that say it, and cuts the answer where the winner says it
    stop = next(t["token"] for t in rows[5:] if t["token"].isascii() and t["token"].isalnum())
    cut = await whole(client, body(stop=stop, entropick={"branch": branch}))
    first = cut["choices"][0]["entropick"]["tokens"][0]
    kept = next(b for b in first["branches"] if b["chosen"])
    assert min(len(b["token_ids"]) for b in first["branches"]) < 33
    assert all(b["text"].find(stop) in (-1, len(b["text"]) - 1) for b in first["branches"])
    if stop in kept["text"]:
        assert cut["choices"][0]["text"] == kept["text"].partition(stop)[0]
        assert cut["choices"][0]["finish_reason"] == "stop"
    shown = (await client.get("/v1/policy")).json()["branch"]["until"]
    assert shown == {"named": ["end"], "min_length": 1, "max_length": 64}


async def test_less_is_told_where_less_is_asked_for(client: httpx.AsyncClient) -> None:
    full = await whole(client, body())
    for level in ("none", "summary", "tokens"):
        answer = await whole(client, body(entropick={"telemetry": level}))
        assert answer["choices"][0]["text"] == full["choices"][0]["text"]
        assert answer["usage"]["completion_tokens_details"] == {"branch_tokens": 66}
        assert "branches" not in json.dumps(answer)
    plain = await whole(client, body(entropick={"branch": None}))
    assert plain["usage"]["completion_tokens_details"] == {"branch_tokens": 0}
    assert plain["choices"][0]["text"] != full["choices"][0]["text"]


async def test_a_stop_string_inside_a_rollout_cuts_the_answer(client: httpx.AsyncClient) -> None:
    full = (await whole(client, body()))["choices"][0]
    rows = full["entropick"]["tokens"]
    # a plain character in the middle of what one rollout said
    at = next(
        r["index"]
        for r in rows
        if r["index"] % 5 in (1, 2, 3)
        and r["token"].isascii()
        and r["token"].isalnum()
        and full["text"].index(r["token"]) == full["text"].rindex(r["token"])
    )
    stop = rows[at]["token"]
    fields = body(stop=stop)
    answer = await whole(client, fields)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == full["text"].partition(stop)[0]
    assert answer["usage"]["completion_tokens"] == at + 1 == len(choice["entropick"]["tokens"])
    text, rows_streamed, last, usage = await streamed(client, fields)
    assert (text, last["finish_reason"]) == (choice["text"], "stop")
    assert usage["completion_tokens"] == len(rows_streamed) == at + 1
    # nothing stays behind
    while await gauge(client, "entropick_num_requests_running"):
        await asyncio.sleep(0.005)
    assert await gauge(client, "entropick_kv_cache_usage_ratio") == 0.0


async def test_a_stop_token_inside_a_rollout_ends_the_answer(client: httpx.AsyncClient) -> None:
    ends = list(range(0, 300, 9))
    found = []
    for seed in range(4):
        answer = await whole(client, body(stop_token_ids=ends, seed=seed))
        choice = answer["choices"][0]
        ids = [r["token_id"] for r in choice["entropick"]["tokens"]]
        assert not set(ids[:-1]) & set(ends)
        assert (choice["finish_reason"] == "stop") == (ids[-1] in ends)
        assert answer["usage"]["completion_tokens"] == len(ids)
        found.append((choice["finish_reason"], len(ids) % 5))
    assert any(reason == "stop" and place for reason, place in found)


async def test_several_prompts_branch_each_as_alone(client: httpx.AsyncClient) -> None:
    prompts = ["Once upon", "In the", "x"]
    together = await whole(client, body(prompt=prompts))
    alone = [await whole(client, body(prompt=prompt)) for prompt in prompts]
    assert [c["text"] for c in together["choices"]] == [a["choices"][0]["text"] for a in alone]
    lost = sum(a["usage"]["completion_tokens_details"]["branch_tokens"] for a in alone)
    assert together["usage"]["completion_tokens_details"] == {"branch_tokens": lost}


async def test_a_client_that_leaves_frees_every_branch(client: httpx.AsyncClient) -> None:
    fields = body(max_tokens=200, entropick={"branch": {**BRANCH, "width": 8, "depth": 150}})
    task = asyncio.create_task(client.post(ROUTE, json=fields))
    running = 0.0
    while running < 8:
        await asyncio.sleep(0.005)
        running = await gauge(client, "entropick_num_requests_running")
        assert not task.done()
    task.cancel()
    while await gauge(client, "entropick_num_requests_running"):
        await asyncio.sleep(0.005)
    assert await gauge(client, "entropick_kv_cache_usage_ratio") == 0.0


async def gauge(client: httpx.AsyncClient, name: str) -> float:
    page = (await client.get("/metrics")).text
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + "{"))
