"""Rows and summaries: whole and streamed answers tell the same, one row a completion token."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import httpx
import pytest

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.engine.types import BranchRecord, Request, Token
from entropick_server.streaming import run
from entropick_server.telemetry import summarize, token_row
from entropick_server.vocabulary import Vocabulary

CHAT = "/v1/chat/completions"


def body(telemetry: str, **fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "Hi"}],
        "seed": 42,
        "entropick": {"telemetry": telemetry},
        **fields,
    }


async def whole(client: httpx.AsyncClient, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = (await client.post(CHAT, json=fields)).json()
    return answer["choices"][0].get("entropick", {}), answer["usage"]


async def streamed(client: httpx.AsyncClient, fields: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post(CHAT, json={**fields, "stream": True})
    events = [e.removeprefix("data: ") for e in answer.text.strip().split("\n\n") if e.startswith("data: ")]
    return [json.loads(event)["choices"][0] for event in events[:-1]]


async def test_none(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json=body("none"))).json()
    assert "entropick" not in answer["choices"][0]
    assert all("entropick" not in choice for choice in await streamed(client, body("none")))


async def test_summary_is_the_default(client: httpx.AsyncClient) -> None:
    answer = (await client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]})).json()
    assert set(answer["choices"][0]["entropick"]) == {"summary"}


async def test_summary(client: httpx.AsyncClient, engine: Any) -> None:
    told, usage = await whole(client, body("summary"))
    summary = told["summary"]
    assert summary["seed"] == 42
    assert summary["policy"] == "entropix"
    assert summary["preset"] == "seed"
    assert summary["profile"] is None
    # agreement is not measured by this engine: absent, not zero
    assert set(summary["signals"]) == set(SIGNAL_NAMES) - {"agreement"}
    tokens = [engine.token(engine.requests[0], i, 65) for i in range(usage["completion_tokens"])]
    entropies = [t.signals[0] for t in tokens]
    assert summary["signals"]["logits_entropy"]["mean"] == pytest.approx(sum(entropies) / len(entropies))
    assert summary["signals"]["logits_entropy"]["max"] == max(entropies)
    assert sum(summary["strategies"].values()) == usage["completion_tokens"]
    assert summary["forced_tokens"] == 1


@pytest.mark.parametrize(
    "off", [{"temperature": 0}, {"entropick": {"policy": "fixed", "telemetry": "tokens"}}]
)
async def test_no_strategy_is_counted_with_the_policy_off(client: httpx.AsyncClient, off: Any) -> None:
    told, _ = await whole(client, {**body("tokens"), **off})
    assert set(told["summary"]["strategies"].values()) == {0}
    assert {row["strategy"] for row in told["tokens"]} == {None}


async def test_a_row_for_each_token(client: httpx.AsyncClient, engine: Any) -> None:
    told, usage = await whole(client, body("tokens"))
    rows = told["tokens"]
    assert len(rows) == usage["completion_tokens"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert [row["token_id"] for row in rows] == [*engine.text.encode(), 256]
    assert rows[-1]["eos"] is True
    assert rows[-1]["token"] == "<eos>"
    assert all("eos" not in row for row in rows[:-1])
    assert set(rows[0]) == {"index", "token", "token_id", "strategy", "forced", "parameters", "signals"}
    assert rows[0]["strategy"] == "greedy"
    assert [row["forced"] for row in rows[:3]] == [False, True, False]
    assert all(set(row["parameters"]) == set(rows[0]["parameters"]) for row in rows)
    assert rows[0]["parameters"] == {
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 50,
        "min_p": 0.02,
        "n_candidates": 1,
    }
    assert set(rows[0]["signals"]) == set(SIGNAL_NAMES) - {"agreement"}


async def test_the_row_of_a_stop_token(client: httpx.AsyncClient, engine: Any) -> None:
    comma = ord(",")
    rows = (await whole(client, body("tokens", stop_token_ids=[comma])))[0]["tokens"]
    assert rows[-1]["token_id"] == comma
    assert rows[-1]["stop"] is True
    assert "eos" not in rows[-1]
    assert all("stop" not in row for row in rows[:-1])
    rows = (await whole(client, body("tokens", stop_token_ids=[256])))[0]["tokens"]
    assert rows[-1]["eos"] is True
    assert "stop" not in rows[-1]


ENDS: list[dict[str, Any]] = [
    {},
    {"stop": "from 北"},
    {"max_tokens": 3},
    {"ignore_eos": True},
    {"stop_token_ids": [ord(",")]},
]


@pytest.mark.parametrize("level", ["summary", "tokens", "full"])
@pytest.mark.parametrize("fields", ENDS)
@pytest.mark.parametrize("per_step", [1, 4])
async def test_whole_and_streamed_are_equal(
    client: httpx.AsyncClient, engine: Any, level: str, fields: dict[str, Any], per_step: int
) -> None:
    engine.per_step = per_step
    told, usage = await whole(client, body(level, **fields))
    choices = await streamed(client, body(level, **fields))
    rows = [row for c in choices for row in c.get("entropick", {}).get("tokens", [])]
    assert rows == told.get("tokens", [])
    if level != "summary":
        assert len(rows) == usage["completion_tokens"]
    assert choices[-1]["entropick"]["summary"] == told["summary"]
    assert all("summary" not in c.get("entropick", {}) for c in choices[:-1])


async def test_rows_ride_on_the_chunk_that_completes_their_text(client: httpx.AsyncClient) -> None:
    for choice in (await streamed(client, body("tokens")))[1:-1]:
        rows = choice["entropick"]["tokens"]
        assert bytes(row["token_id"] for row in rows).decode() == choice["delta"]["content"]


async def test_full_adds_layers_and_candidates(client: httpx.AsyncClient) -> None:
    row = (await whole(client, body("full")))[0]["tokens"][0]
    assert row["detail"] == {
        "layers": [0, 1],
        "attention_entropy": [[1.0, 2.0], [1.0, 2.0]],
        "interaction_strength": [[3.0, 4.0], [3.0, 4.0]],
        "attention_to_previous": [[0.25, None], [0.25, None]],
        "per_layer": {"agreement": [0.1, 0.2]},
    }
    assert row["candidates"] == [{"token": "A", "token_id": 65, "logprob": -1.0, "score": 2.0}]
    assert row["most_probable"] == [
        {"token": "A", "token_id": 65, "probability": 0.75, "final_probability": 1.0, "cut_by": None},
        {"token": "<eos>", "token_id": 256, "probability": 0.25, "final_probability": 0.0, "cut_by": "min_p"},
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"at_end": True}, {"consensus": {"extract": "text", "k": 3}}])
async def test_nothing_large_is_kept_of_tokens_that_were_told(
    client: httpx.AsyncClient, stream: bool, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of figures that are freed at once hold every other stream up."""
    runs: list[run.Run] = []
    begin = run.Run.__init__

    def noted(self: run.Run, *given: Any, **named: Any) -> None:
        runs.append(self)
        begin(self, *given, **named)

    monkeypatch.setattr(run.Run, "__init__", noted)
    fields = body("full", logprobs=True, top_logprobs=2)
    fields["entropick"] |= more
    if stream:
        told = [c["entropick"]["tokens"] for c in await streamed(client, fields) if c.get("entropick")]
        rows = [row for some in told for row in some]
    else:
        rows = (await whole(client, fields))[0]["tokens"]
    assert all(
        row["detail"]["layers"] == [0, 1] and row["candidates"] and row["most_probable"] for row in rows
    )
    tokens = [reply.token for one in runs for reply in one.tokens]
    assert min(len(tokens), len(rows)) > 2
    if not (stream and "consensus" in more):  # which keeps its steps to the end
        assert not any(token.detail or token.top_logprobs for token in tokens)


async def test_seeds(client: httpx.AsyncClient, engine: Any, serve: Any) -> None:
    plain = {"messages": [{"role": "user", "content": "Hi"}]}
    seeds = [(await whole(client, plain))[0]["summary"]["seed"] for _ in range(4)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert [r.sampling.seed for r in engine.requests] == seeds
    async with serve(type(engine)(), seed=7) as other:
        assert (await whole(other, plain))[0]["summary"]["seed"] == 7


async def test_the_profile_in_force(engine: Any, serve: Any, profile: Any) -> None:
    engine.profile = profile
    async with serve(engine) as client:
        summary = (await whole(client, body("summary")))[0]["summary"]
        assert summary["preset"] == "calibrated"
        assert summary["profile"] == profile.id
        fixed = {"entropick": {"policy": "fixed"}}
        assert (await whole(client, {**body("summary"), **fixed}))[0]["summary"]["preset"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_summary_is_made_once_and_a_profile_digested_once(
    engine: Any, serve: Any, profile: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    made: list[str] = []
    digested: list[int] = []
    summarize, identity = run.summarize, Profile.__dict__["id"].func

    def counted(request: Request, *rest: Any) -> Any:
        made.append(request.request_id)
        return summarize(request, *rest)

    def counted_id(this: Profile) -> str:
        digested.append(1)
        return str(identity(this))

    monkeypatch.setattr(run, "summarize", counted)
    monkeypatch.setattr(Profile, "id", property(counted_id))
    engine.profile = profile
    async with serve(engine) as client:
        for _ in range(2):
            fields = {"prompt": ["a", "b"], "n": 2, "stream": stream, "max_tokens": 3}
            answer = await client.post("/v1/completions", json=fields)
            assert answer.text.count('"summary"') == 4
        assert len(client.app.state.server.recent.newest()) == 8
    assert len(made) == len(set(made)) == 8
    assert len(digested) == 1


async def test_server_defaults(engine: Any, serve: Any) -> None:
    for policy in ("fixed", "top_h"):
        async with serve(engine, policy=policy, telemetry="tokens") as client:
            told, _ = await whole(client, {"messages": [{"role": "user", "content": "Hi"}]})
            assert (told["summary"]["policy"], told["summary"]["preset"]) == (policy, None)
            assert {row["strategy"] for row in told["tokens"]} == {None}


def test_a_branch_on_the_wire(engine: Any) -> None:
    branches = (BranchRecord((65, 0xC3), -math.inf, False), BranchRecord((66, 256), -0.5, True))
    token = replace(
        engine.token(Request("r", (1,), SamplingParams(), PolicyConfig(), 0.0), 0, 66), branches=branches
    )
    vocabulary = Vocabulary(engine.tokenizer, 259)
    row = token_row(0, token, vocabulary, eos=False, stop=False, full=True)
    assert [branch.model_dump() for branch in row["branches"]] == [
        {"text": "A\ufffd", "token_ids": [65, 0xC3], "score": None, "chosen": False},
        {"text": "B", "token_ids": [66, 256], "score": -0.5, "chosen": True},
    ]
    for none in (
        token_row(0, replace(token, branches=()), vocabulary, eos=False, stop=False, full=True),
        token_row(0, token, vocabulary, eos=False, stop=False),
    ):
        assert "branches" not in none


def _layered(*entropies: tuple[tuple[int, float], ...]) -> list[Token]:
    return [Token(5, -1.0, (None,) * len(SIGNAL_NAMES), None, None, layer_entropy=own) for own in entropies]


def test_layers_at_a_glance() -> None:
    """Rises and falls between the asked layers; tokens without entropies, or with lost ones, are left out."""
    tokens = _layered(
        ((0, 8.0), (3, 9.0), (7, 2.0)),
        (),
        ((0, 8.0), (3, 8.0 + 1e-7), (7, 8.5)),
        ((0, 8.0), (3, math.nan), (7, 1.0)),
    )
    request = Request("r", (1,), SamplingParams(), PolicyConfig(), 0.0)
    told = summarize(request, tokens, None, 0).layer_entropy
    assert told is not None
    assert told.tokens == 2
    assert told.mean == pytest.approx({"0": 8.0, "3": 8.5, "7": 5.25}, abs=1e-6)
    # the first token rises once and falls once, the other stays and rises
    assert (told.expansions, told.prunings) == (1.0, 0.5)
    assert summarize(request, _layered((), ()), None, 0).layer_entropy is None
    assert "layer_entropy" not in summarize(request, _layered(()), None, 0).model_dump(exclude_unset=True)
