"""A consensus as the routes ask for it and as it comes back, on an engine with written replies."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick_server.engine.types import Request, Token

from .support import Client, until

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "Hello"}]
TEXTS = ("4", "it is 4", "so 5", "none", "5!", "thus 5", "4.", "7", "8")
"""of reply 0, 1, 2, ..."""
ALL: Any = {"extract": "last_number", "weight": "none", "stop": "all", "k": 6}


@pytest.fixture(autouse=True)
def _script(engine: Any) -> None:
    engine.script = lambda request: list(TEXTS[request.choice].encode())


async def ask(client: httpx.AsyncClient, consensus: Any, route: str = CHAT, **fields: Any) -> httpx.Response:
    block = {"telemetry": "full", "consensus": consensus, **fields.pop("entropick", {})}
    body = {"messages": HELLO} if route == CHAT else {"prompt": "x"}
    return await client.post(route, json={**body, "seed": 3, **fields, "entropick": block})


async def test_the_winner_comes_back(client: httpx.AsyncClient) -> None:
    answer = (await ask(client, ALL)).json()
    (choice,) = answer["choices"]
    # 5 has three votes of five; of its replies the first
    assert choice["index"] == 0
    assert choice["message"]["content"] == "so 5"
    assert choice["finish_reason"] == "stop"
    told = choice["entropick"]
    assert told["summary"]["choice"] == 2
    assert told["summary"]["consensus"] == {
        "replies": 6, "answered": 5, "answer": "5", "share": 0.6, "rule": "all", "reason": "exhausted",
    }  # fmt: skip
    assert "".join(row["token"] for row in told["tokens"][:-1]) == "so 5"
    assert [r["text"] for r in told["replies"]] == list(TEXTS[:6])
    assert [r["answer"] for r in told["replies"]] == ["4", "4", "5", None, "5", "5"]
    assert [r["weight"] for r in told["replies"]] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert [r["choice"] for r in told["replies"] if r["chosen"]] == [2]
    assert [len(r["token_ids"]) for r in told["replies"]] == [len(t) + 1 for t in TEXTS[:6]]
    usage = answer["usage"]
    lost = sum(len(text) + 1 for text in TEXTS[:6]) - 5
    assert usage["completion_tokens"] == 5
    assert usage["completion_tokens_details"] == {"branch_tokens": 0, "consensus_tokens": lost}
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_what_the_engine_gets(client: httpx.AsyncClient, engine: Any) -> None:
    fields = {"temperature": 0.7, "logprobs": True, "max_tokens": 20}
    overrides = {"overrides": {"temperature": 0.5, "top_k": 5}}
    answer = (await ask(client, ALL, entropick=overrides, **fields)).json()
    made: list[Request] = engine.requests
    assert [(r.choice, r.request_id) for r in made] == [(i, f"{answer['id']}-{i}") for i in range(6)]
    assert {r.group for r in made} == {f"{answer['id']}-0"}
    assert {(r.sampling.seed, r.sampling.max_tokens, r.sampling.logprobs) for r in made} == {(3, 20, 0)}
    # the greedy reply is greedy whatever the overrides say
    assert (made[0].sampling.temperature, dict(made[0].policy.overrides)) == (0.0, {"top_k": 5})
    assert {r.sampling.temperature for r in made[1:]} == {0.7}
    assert {r.policy.overrides["temperature"] for r in made[1:]} == {0.5}
    engine.requests.clear()
    await ask(client, {**ALL, "first": "sample"}, **fields)
    assert {r.sampling.temperature for r in engine.requests} == {0.7}


async def test_weights_come_from_the_replies_figures(client: httpx.AsyncClient, engine: Any) -> None:
    plain, bits = engine.token, (-0.5, -0.5, -0.1, -0.1, -2.0, -2.0)
    engine.token = lambda request, index, token_id: replace(
        plain(request, index, token_id), logprob=bits[request.choice] * 0.6931471805599453, forced=False
    )
    told = (await ask(client, {**ALL, "weight": {"by": "mean_logprob", "scale": 2}})).json()
    (choice,) = told["choices"]
    weights = [r["weight"] for r in choice["entropick"]["replies"]]
    assert weights == pytest.approx([0.5, 0.5, 2**-0.2, 0.0, 2**-4, 2**-4])
    # 4 with 1.0 beats 5 with .996
    assert choice["message"]["content"] == "4"
    assert choice["entropick"]["summary"]["consensus"]["share"] == pytest.approx(
        1 / (1 + 2**-0.2 + 2 * 2**-4)
    )


async def test_an_early_stop_draws_no_more(client: httpx.AsyncClient, engine: Any) -> None:
    told = (await ask(client, {"extract": "last_number", "stop": {"rule": "esc", "window": 2}})).json()
    assert [r.choice for r in engine.requests] == [0, 1]
    assert told["choices"][0]["entropick"]["summary"]["consensus"]["reason"] == "agreed"
    engine.requests.clear()
    sure = {"extract": "last_number", "stop": {"rule": "cascade", "answer_bits": 0.8}}
    told = (await ask(client, sure)).json()
    assert [r.choice for r in engine.requests] == [0], "0.5 nats are 0.72 bits"
    assert told["usage"]["completion_tokens_details"]["consensus_tokens"] == 0
    engine.requests.clear()
    await ask(client, {**sure, "stop": {"rule": "cascade", "answer_bits": 0.7}})
    assert len(engine.requests) > 1


async def test_cut_replies_weigh_little_and_none_has_an_answer(client: httpx.AsyncClient) -> None:
    told = (await ask(client, ALL, max_tokens=2)).json()
    # "4" and its end of sequence fit, "4." is never made; the others are cut: "it", "so", "no", "5!", "th"
    replies = told["choices"][0]["entropick"]["replies"]
    assert [(r["text"], r["answer"], r["weight"], r["finish_reason"]) for r in replies] == [
        ("4", "4", 1.0, "stop"),
        ("it", None, 0.0, "length"),
        ("so", None, 0.0, "length"),
        ("no", None, 0.0, "length"),
        ("5!", "5", 0.3, "length"),
        ("th", None, 0.0, "length"),
    ]
    none = (await ask(client, {**ALL, "extract": {"regex": "Z"}})).json()["choices"][0]
    assert none["message"]["content"] == "4"
    assert none["entropick"]["summary"]["consensus"] | {"replies": 6} == {
        "replies": 6, "answered": 0, "answer": None, "share": None, "rule": "all", "reason": "exhausted",
    }  # fmt: skip


async def test_the_most_typical_reply(client: httpx.AsyncClient) -> None:
    told = (await ask(client, {**ALL, "extract": "similar"})).json()["choices"][0]
    # "4", "it is 4", "so 5", "none", "5", "thus 5": 5 shares a word with two, at 2/3 each
    assert told["message"]["content"] == "5!"
    assert told["entropick"]["summary"]["consensus"]["share"] == pytest.approx((1 + 4 / 3) / 6)


async def test_stop_strings_end_every_reply(client: httpx.AsyncClient) -> None:
    told = (await ask(client, ALL, stop=[" 4", " 5"])).json()
    assert [r["text"] for r in told["choices"][0]["entropick"]["replies"]] == [
        "4", "it is", "so", "none", "5!", "thus",
    ]  # fmt: skip


async def _chunks(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("route", [CHAT, PLAIN])
async def test_a_stream_says_the_same(client: httpx.AsyncClient, openai: AsyncOpenAI, route: str) -> None:
    whole = (await ask(client, ALL, route)).json()
    fields: dict[str, Any] = {
        "model": "fake",
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {"entropick": {"telemetry": "full", "consensus": ALL}},
    }
    if route == CHAT:
        chunks = await _chunks(await openai.chat.completions.create(messages=HELLO, **fields))
    else:
        chunks = await _chunks(await openai.completions.create(prompt="x", **fields))
    *chunks, last = chunks
    assert last.usage.model_dump(exclude_unset=True) == whole["usage"]
    text, rows = "", []
    for chunk in chunks:
        (choice,) = chunk.choices
        assert (choice.index, chunk.usage) == (0, None)
        text += (choice.delta.content or "") if route == CHAT else choice.text
        rows += (getattr(choice, "entropick", None) or {}).get("tokens", [])
    told = whole["choices"][0]
    assert text == "so 5" == (told["message"]["content"] if route == CHAT else told["text"])
    assert rows == told["entropick"]["tokens"]
    assert chunks[-1].choices[0].finish_reason == told["finish_reason"] == "stop"
    assert chunks[-1].choices[0].entropick["summary"] == told["entropick"]["summary"]
    assert chunks[-1].choices[0].entropick["replies"] == told["entropick"]["replies"]


async def test_comments_come_before_the_verdict(client: httpx.AsyncClient) -> None:
    lines = (await ask(client, {**ALL, "stop": {"rule": "esc", "window": 2}}, stream=True)).text.split("\n\n")
    assert lines[-1] == ""
    kinds = [line.partition(" ")[0] for line in lines[:-1]]
    assert kinds.index("data:") > 0
    assert set(kinds[: kinds.index("data:")]) == {":"}
    assert set(kinds[kinds.index("data:") :]) == {"data:"}
    assert lines[kinds.index("data:") - 1] == ": choice 0: 2 of 2 replies"
    assert lines[-2] == "data: [DONE]"


async def test_several_prompts(client: httpx.AsyncClient, engine: Any) -> None:
    engine.script = lambda request: list(
        f"{chr(request.prompt_token_ids[-1])}{TEXTS[request.choice]}".encode()
    )
    answer = (await ask(client, ALL, PLAIN, prompt=["x", "y"])).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "xso 5"), (1, "yso 5")]
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 12
    assert sorted(r.request_id.rpartition("-")[2] for r in engine.requests) == sorted(map(str, range(12)))
    groups = {r.group for r in engine.requests}
    assert groups == {f"{answer['id']}-0", f"{answer['id']}-6"}
    streamed = (await ask(client, ALL, PLAIN, prompt=["x", "y"], stream=True)).text
    texts = {0: "", 1: ""}
    for line in streamed.split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                texts[choice["index"]] += choice["text"]
    assert texts == {0: "xso 5", 1: "yso 5"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 2, "route": PLAIN}, "best_of"),
        ({"entropick": {"branch": {}}}, "entropick.branch"),
        ({"temperature": 0}, "temperature"),
        ({"entropick": {"overrides": {"temperature": 0}}}, "temperature"),
        ({"consensus": {"k": 3}}, "entropick.consensus.extract"),
        ({"consensus": {"extract": {"regex": "(?=a)"}}}, "entropick.consensus.extract"),
        ({"consensus": {"extract": "text", "k": 17}}, "entropick.consensus.k"),
        ({"consensus": {"extract": "text", "k": 1}}, "entropick.consensus.k"),
        ({"consensus": {"extract": "text", "stop": "never"}}, "entropick.consensus.stop.rule"),
        ({"consensus": 5}, "entropick.consensus"),
        ({"consensus": True}, "entropick.consensus"),
        ({"consensus": [1]}, "entropick.consensus"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, engine: Any, fields: dict[str, Any], param: str) -> None:
    fields = dict(fields)
    answer = await ask(client, fields.pop("consensus", ALL), fields.pop("route", CHAT), **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]
    assert engine.requests == []


async def test_a_branch_budget_of_nothing_is_no_branch(client: httpx.AsyncClient) -> None:
    assert (await ask(client, ALL, entropick={"branch": {"budget": 0}})).status_code == 200
    assert (await ask(client, {**ALL, "k": 16, "stop": "cascade"})).status_code == 200


async def test_a_servers_default(engine: Any, serve: Any) -> None:
    async with serve(engine, consensus={"extract": "last_number", "k": 3, "stop": "all"}) as client:
        default = (await client.get("/v1/policy")).json()["default"]["consensus"]
        assert (default["k"], default["extract"], default["stop"]["rule"]) == (3, "last_number", "all")

        async def replies(**fields: Any) -> int:
            engine.requests.clear()
            answer = await client.post(PLAIN, json={"prompt": "x", **fields})
            assert answer.status_code == 200, answer.text
            return len(engine.requests)

        assert await replies() == 3
        assert await replies(entropick={"consensus": {"k": 5}}) == 5
        assert await replies(entropick={"consensus": None}) == 3
        # it yields to what it cannot go together with
        assert await replies(entropick={"consensus": False}) == 1
        assert await replies(n=2) == 2
        assert await replies(n=1, best_of=4) == 4
        assert await replies(temperature=0) == 1
        assert await replies(entropick={"branch": {}}) == 1
        assert engine.requests[0].policy.branch is not None
    async with serve(engine, branch={}) as client:
        assert (await ask(client, ALL)).status_code == 200
        assert {r.policy.branch for r in engine.requests[-6:]} == {None}


async def test_recent_requests_and_metrics(client: httpx.AsyncClient) -> None:
    answer = (await ask(client, ALL)).json()
    told = (await client.get(f"/v1/requests/{answer['id']}")).json()
    assert [(c["choice"], c["summary"]["choice"]) for c in told["choices"]] == [(i, i) for i in range(6)]
    page = (await client.get("/metrics")).text
    lost, kept = answer["usage"]["completion_tokens_details"]["consensus_tokens"], 5
    for name, value in (
        ('entropick_consensus_verdicts_total{model_name="fake",reason="exhausted"}', 1),
        ('entropick_consensus_replies_total{model_name="fake"}', 6),
        ('entropick_consensus_tokens_total{model_name="fake"}', lost),
        ('entropick_generation_tokens_total{model_name="fake"}', lost + kept),
        ('entropick_prompt_tokens_total{model_name="fake"}', answer["usage"]["prompt_tokens"]),
        ('entropick_request_success_total{finished_reason="stop",model_name="fake"}', 6),
    ):
        assert f"{name} {value:.1f}\n" in page, name


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_reply_fails_the_request(
    client: httpx.AsyncClient, engine: Any, stream: bool
) -> None:
    engine.fail_after = 1
    answer = await ask(client, ALL, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert engine.running == {}
    engine.fail_after, engine.full = None, True
    answer = await ask(client, ALL, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
    state = client.app.state.server  # type: ignore[attr-defined]
    assert state.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_stops_while_replies_are_read(engine: Any, serve: Any, stream: bool) -> None:
    """Long replies are read in a thread, which is gone."""
    engine.info = replace(engine.info, max_model_len=5000)
    engine.per_step = 3000
    engine.script = lambda request: list(b"7" * 2999)
    async with serve(engine) as client:
        assert (await ask(client, ALL, PLAIN, stream=stream, max_tokens=4000)).status_code == 200
        client.app.state.server.offload.close()
        # a conversation would be refused earlier, by the thread that renders it
        answer = await ask(client, ALL, PLAIN, stream=stream, max_tokens=4000)
        # a stream whose headers are out already says it in an event
        error = json.loads(answer.text.removeprefix("data: "))["error"]
        assert (error["code"], error["message"]) == ("engine_stopped", "The server is shutting down.")
        assert client.app.state.server.in_flight == 0


async def test_a_later_reply_that_fails_ends_the_stream(client: httpx.AsyncClient, engine: Any) -> None:
    plain = engine.token

    def token(request: Request, index: int, token_id: int) -> Token:
        if request.choice == 2:
            engine.fail_after = 0
        return plain(request, index, token_id)  # type: ignore[no-any-return]

    engine.token = token
    stop = {"rule": "esc", "window": 2}
    engine.script = lambda request: list(("4" if request.choice % 2 else "5").encode())
    lines = (await ask(client, {**ALL, "stop": stop}, stream=True)).text.split("\n\n")
    assert lines[0] == ": choice 0: 1 of 2 replies" or lines[0] == ": choice 0: 2 of 2 replies"
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert not any("[DONE]" in line for line in lines)
    assert engine.running == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_every_reply(engine: Any, serve: Any, stream: bool) -> None:
    engine.delay = 0.02
    engine.script = lambda request: list(b"7" * 200)
    async with serve(engine) as client:
        body = {"messages": HELLO, "stream": stream, "entropick": {"consensus": ALL}}
        asked = Client(client.app, body)
        admission = client.app.state.server.admission
        await until(lambda: [prompt.running for prompt in admission._prompts] == [6])
        asked.gone.set()
        await until(lambda: not engine.running)
        await asyncio.wait_for(asked.task, 3)
        assert len(engine.closed) == 6
        assert client.app.state.server.in_flight == 0
        page = (await client.get("/metrics")).text
        assert re.search(r'finished_reason="cancelled",model_name="fake"\} 6\.0', page)


async def test_the_queue_counts_the_replies_that_were_begun(engine: Any, serve: Any) -> None:
    """Three slots and no queue: a vote that holds two of them leaves room for one prompt."""
    engine.delay = 0.02
    engine.script = lambda request: list(b"7" * 200)
    async with serve(engine, max_num_seqs=3, max_queue=0) as client:
        vote = {"extract": "last_number", "stop": {"rule": "esc", "window": 2}}
        first = Client(client.app, {"messages": HELLO, "entropick": {"consensus": vote}})
        await until(lambda: len(engine.running) == 2)
        second = Client(client.app, {"messages": HELLO})
        await until(lambda: len(engine.running) == 3)
        refused = await client.post(CHAT, json={"messages": HELLO})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        for one in (first, second):
            one.gone.set()
            await asyncio.wait_for(one.task, 3)
        assert client.app.state.server.in_flight == 0


async def test_a_prompt_stays_admitted_between_its_waves(engine: Any, serve: Any) -> None:
    """A server that drains waits for the vote, not for the wave."""
    seen = []
    engine.script = lambda request: (
        seen.append(client.app.state.server.in_flight),
        [*b"45"[request.choice % 2 :]],
    )[1]
    async with serve(engine) as client:
        await ask(client, {**ALL, "stop": {"rule": "esc", "window": 2}})
        assert len(seen) == 6
        assert set(seen) == {1}
        assert client.app.state.server.in_flight == 0
