"""Several choices for a prompt, as the routes ask for them and as they come back; and server defaults."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.types import FinishReason, Request, RequestOutput, Token
from entropick_server.state import ServerState
from entropick_server.streaming.ranking import best
from entropick_server.streaming.run import Origin, Run

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def _script(engine: Any) -> None:
    engine.script = lambda request: list(f"{'abc'[request.choice % 3]}{request.choice}".encode())


async def test_what_the_engine_gets(openai: AsyncOpenAI, engine: Any) -> None:
    answer = await openai.completions.create(model="fake", prompt=["ab", "c"], n=2, seed=5)
    made: list[Request] = engine.requests
    assert [(r.choice, r.group, r.request_id) for r in made] == [
        (0, f"{answer.id}-0", f"{answer.id}-0"),
        (1, f"{answer.id}-0", f"{answer.id}-1"),
        (0, f"{answer.id}-2", f"{answer.id}-2"),
        (1, f"{answer.id}-2", f"{answer.id}-3"),
    ]
    assert [r.prompt_token_ids for r in made] == [(257, 97, 98)] * 2 + [(257, 99)] * 2
    assert {r.sampling.seed for r in made} == {5}
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a0"), (1, "b1"), (2, "a0"), (3, "b1")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3 + 2, 4 * 3)
    engine.requests.clear()
    await openai.completions.create(model="fake", prompt="ab", n=1)
    assert (engine.requests[0].choice, engine.requests[0].group) == (0, None)
    engine.requests.clear()
    await openai.completions.create(model="fake", prompt="ab", n=3)
    assert len({r.sampling.seed for r in engine.requests}) == 1, "one seed replays all of them"


async def test_chat(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(model="fake", messages=HELLO, n=3, seed=1)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, "a0"), (1, "b1"), (2, "c2")]
    told = [c.entropick["summary"] for c in answer.choices]  # type: ignore[attr-defined]
    assert [(s["seed"], s["choice"]) for s in told] == [(1, 0), (1, 1), (1, 2)]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 9)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def _chunks(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("chat", [True, False])
async def test_a_stream(openai: AsyncOpenAI, chat: bool) -> None:
    fields: Any = {
        "model": "fake",
        "n": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {"entropick": {"telemetry": "tokens"}},
    }
    if chat:
        chunks = await _chunks(await openai.chat.completions.create(messages=HELLO, **fields))
    else:
        chunks = await _chunks(await openai.completions.create(prompt="x", **fields))
    *chunks, last = chunks
    assert last.choices == []
    assert last.usage.completion_tokens == 9
    assert last.usage.prompt_tokens == (12 if chat else 2)
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    texts, rows, ends = ["", "", ""], [[], [], []], []  # type: ignore[var-annotated]
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += (choice.delta.content or "") if chat else choice.text
        told = getattr(choice, "entropick", None) or {}
        rows[choice.index] += told.get("tokens", [])
        assert ("summary" in told) == (choice.finish_reason is not None)
        if choice.finish_reason is not None:
            ends.append(choice.index)
            assert told["summary"]["choice"] == choice.index
    assert texts == ["a0", "b1", "c2"]
    assert sorted(ends) == [0, 1, 2]
    assert [[row["index"] for row in of] for of in rows] == [[0, 1, 2]] * 3
    if chat:
        roles = [c.choices[0].index for c in chunks if c.choices[0].delta.role]
        assert sorted(roles) == [0, 1, 2]


async def test_the_best_come_back(openai: AsyncOpenAI, engine: Any) -> None:
    mean = (-0.5, -0.3, -0.9, -0.3, -0.1)
    plain = engine.token

    def token(request: Request, index: int, token_id: int) -> Token:
        return replace(plain(request, index, token_id), logprob=mean[request.choice])

    engine.token = token
    engine.script = lambda request: list(b"12345"[: request.choice + 1])
    answer = await openai.completions.create(model="fake", prompt=["x", "y"], n=3, best_of=5)
    # of equals the earlier one
    assert [(c.index, c.text) for c in answer.choices] == [
        (0, "12345"), (1, "12"), (2, "1234"), (3, "12345"), (4, "12"), (5, "1234"),
    ]  # fmt: skip
    assert [c.entropick["summary"]["choice"] for c in answer.choices[:3]] == [4, 1, 3]  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4
    # each has its text and an end of sequence
    assert answer.usage.completion_tokens == 2 * (2 + 3 + 4 + 5 + 6)
    details = answer.usage.completion_tokens_details
    assert details is not None
    assert details.best_of_tokens == 2 * (2 + 4)  # type: ignore[attr-defined]
    only = await openai.completions.create(model="fake", prompt="x", best_of=5)
    assert [(c.index, c.text) for c in only.choices] == [(0, "12345")]
    same = await openai.completions.create(model="fake", prompt="x", n=5, best_of=5)
    assert [c.text for c in same.choices] == ["1", "12", "123", "1234", "12345"]
    streamed = await openai.completions.create(model="fake", prompt="x", n=2, best_of=2, stream=True)
    assert {c.choices[0].index for c in await _chunks(streamed)} == {0, 1}


async def test_short_completions_are_not_favoured(client: httpx.AsyncClient, engine: Any) -> None:
    state: ServerState = client.app.state.server  # type: ignore[attr-defined]
    (place,) = state.admission.admit(1, 3)

    def choice(number: int, *logprobs: float) -> Run:
        request = Request(str(number), (1,), SamplingParams(), PolicyConfig(), 0.0, number)
        run = Run(number, request, Origin("a", "r", PLAIN, 0, state.model), state, place)
        tokens = tuple(replace(engine.token(request, i, 65), logprob=p) for i, p in enumerate(logprobs))
        run.take(RequestOutput(str(number), tokens, FinishReason.LENGTH))
        return run

    short, long, worst = choice(0, -1.0), choice(1, -0.9, -0.9, -0.9), choice(2, -0.1, -4.0)
    assert best([short, long, worst], 2) == [long, short]


async def test_the_limit_is_the_servers(engine: Any, serve: Any) -> None:
    async with serve(engine, max_n=3) as client:
        for route, fields in ((CHAT, {"messages": HELLO}), (PLAIN, {"prompt": "x"})):
            assert (await client.post(route, json={**fields, "n": 3})).status_code == 200
            answer = await client.post(route, json={**fields, "n": 4})
            assert answer.status_code == 400
            assert answer.json()["error"]["message"] == "n: must be at most 3 (the server's max_n)."
        answer = await client.post(PLAIN, json={"prompt": "x", "n": 2, "best_of": 4})
        assert answer.json()["error"]["message"] == "best_of: must be at most 3 (the server's max_n)."
        assert answer.json()["error"]["param"] == "best_of"
    async with serve(engine, max_n=40) as client:
        answer = await client.post(PLAIN, json={"prompt": "x", "n": 40})
        assert [c["index"] for c in answer.json()["choices"]] == [*range(40)]


async def test_recent_requests_and_metrics(client: httpx.AsyncClient) -> None:
    headers = {"X-Request-Id": "mine"}
    answer = await client.post(PLAIN, json={"prompt": "x", "n": 2, "best_of": 3}, headers=headers)
    assert answer.headers["X-Request-Id"] == "mine"
    told = (await client.get("/v1/requests/mine")).json()
    assert told["id"] == answer.json()["id"]
    assert [(c["choice"], c["request_id"], c["summary"]["choice"]) for c in told["choices"]] == [
        (i, "mine", i) for i in range(3)
    ]
    page = (await client.get("/metrics")).text
    assert 'entropick_prompt_tokens_total{model_name="fake"} 2.0' in page
    assert 'entropick_generation_tokens_total{model_name="fake"} 9.0' in page
    assert 'entropick_request_success_total{finished_reason="stop",model_name="fake"} 3.0' in page


async def test_one_failing_choice_ends_the_request(client: httpx.AsyncClient, engine: Any) -> None:
    engine.fail_after = 1
    assert (await client.post(PLAIN, json={"prompt": "a", "n": 3})).status_code == 500
    assert engine.running == {}
    engine.full = True
    answer = await client.post(CHAT, json={"messages": HELLO, "n": 3})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")


async def test_server_defaults(engine: Any, serve: Any) -> None:
    given = {
        "branch": {"width": 3, "on": ["adaptive"]},
        "overrides": {"temperature": 0.5, "temperature_min": 0.4, "clarify_budget": 0, "top_k": 5},
        "telemetry": "none",
    }
    async with serve(engine, **given) as client:
        told = (await client.get("/v1/policy")).json()["default"]
        assert told["overrides"] == given["overrides"]
        assert told["branch"] == {
            "width": 3, "depth": None, "budget": 1.0, "scorer": "mean_logprob", "on": ["adaptive"],
            "min_entropy": 0.0, "min_runner_up": 0.0, "until": None,
        }  # fmt: skip

        async def asked(**fields: Any) -> Any:
            answer = await client.post(PLAIN, json={"prompt": "x", **fields})
            assert answer.status_code == 200, answer.text
            return engine.requests[-1].policy

        policy = await asked()
        default = BranchConfig(width=3, on=policy.branch.on)
        assert policy.branch == default
        assert (policy.overrides, policy.telemetry) == (given["overrides"], "none")
        # a request's own fields and overrides are nearer
        policy = await asked(temperature=1.0, top_k=9)
        assert policy.overrides == {"temperature_min": 0.4, "clarify_budget": 0}
        block = {"overrides": {"clarify_budget": 2, "temperature_max": 0.3}, "branch": {"depth": 7}}
        policy = await asked(entropick=block)
        assert policy.overrides == {
            "clarify_budget": 2,
            "temperature": 0.5,
            "top_k": 5,
            "temperature_max": 0.3,
        }
        assert policy.branch == replace(default, depth=7)
        assert (await asked(entropick={"branch": None})).branch == default
        assert (await asked(entropick={"branch": {"budget": 0}})).branch == replace(default, budget=0)
        assert (await asked(entropick={"policy": "fixed"})).branch is None
        answer = await client.post(
            PLAIN, json={"prompt": "x", "entropick": {"policy": "fixed", "branch": {}}}
        )
        assert answer.status_code == 400
    async with serve(engine, policy="fixed", **given) as client:
        await client.post(PLAIN, json={"prompt": "x"})
        assert engine.requests[-1].policy.branch is None
        await client.post(PLAIN, json={"prompt": "x", "entropick": {"policy": "entropix"}})
        assert engine.requests[-1].policy.branch == default


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [
        ({}, None),
        ({"temperature": 0.0, "n": 2}, 0.0),
        ({"n": 2}, 0.7),
        ({"best_of": 2}, 0.7),
        ({"entropick": {"branch": {}}}, 0.7),
        ({"entropick": {"branch": {"budget": 0}}}, None),
        ({"entropick": {"consensus": {"extract": "text", "k": 2, "stop": "all"}}}, 0.7),
        ({"n": 2, "entropick": {"overrides": {"temperature": 0.4}}}, None),
        ({"n": 2, "entropick": {"preset": "seed"}}, None),
        ({"n": 2, "entropick": {"policy": "edt"}}, None),
    ],
)
async def test_several_continuations_are_drawn(
    engine: Any, serve: Any, profile: Any, fields: dict[str, Any], temperature: float | None
) -> None:
    """Preset ``calibrated`` draws nothing by itself: where several are wanted they would all be the same."""
    engine.profile = profile
    async with serve(engine) as client:
        answer = await client.post(PLAIN, json={"prompt": "x", **fields})
    assert answer.status_code == 200, answer.text
    # the greedy reply of a vote is its first
    drawn = engine.requests[-1] if len(engine.requests) > 1 else engine.requests[0]
    assert drawn.sampling.temperature == temperature


async def test_an_unread_body_says_nothing_of_choices(client: httpx.AsyncClient) -> None:
    answer = (await client.post(PLAIN, json={"prompt": "x", "n": None, "best_of": None})).json()
    assert len(answer["choices"]) == 1
    assert "best_of_tokens" not in json.dumps(answer)
