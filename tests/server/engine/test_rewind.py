"""Replies that go on behind the first tokens of an earlier reply, on a tiny model behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions

ROUTE = "/v1/completions"
BRANCH = {"width": 3, "depth": 5, "on": ["adaptive", "greedy", "explore", "high_uncertainty"], "budget": 1}
Fields = dict[str, Any]
Serve = Callable[..., Any]
NEVER_CLEAR = {"greedy_entropy": 0, "explore_entropy": 0, "high_uncertainty_entropy": 64}
ASKING = {"clarify_entropy": 0.0, "clarify_varentropy": 4096.0, "clarify_budget": 2, "clarify_cooldown": 10}
KINDS: dict[str, Fields] = {
    "fixed": {"temperature": 1.0, "entropick": {"policy": "fixed"}},
    "seed": {"entropick": {"preset": "seed"}},
    "clarify": {"entropick": {"preset": "seed", "overrides": {**NEVER_CLEAR, **ASKING}}},
    "mirostat": {"entropick": {"policy": "mirostat", "overrides": {"mirostat_tau": 2, "mirostat_eta": 1}}},
    "branches": {"entropick": {"preset": "seed", "branch": BRANCH}},
    "stop": {"stop": ["zzz", "\x00"], "temperature": 1.3, "entropick": {"preset": "seed"}},
}


def body(kind: str, **fields: Any) -> Fields:
    block = {"telemetry": "tokens", **KINDS[kind]["entropick"], **fields.pop("entropick", {})}
    plain = {"prompt": "Once upon a time, in a land", "max_tokens": 40, "seed": 7, "ignore_eos": True}
    return {**plain, **KINDS[kind], **fields, "entropick": block}


@pytest.fixture
async def client(
    serve: Serve, model_folder: Callable[[str], Path], tmp_path: Path, request: Any
) -> AsyncIterator[httpx.AsyncClient]:
    options = EngineOptions(
        model=str(model_folder("llama")),
        device="cpu",
        threads=1,
        block_size=4,
        calibrate=False,
        use_profile=False,
    )
    given = getattr(request, "param", {})
    engine = EmbeddedEngine(options, profile_cache=tmp_path)
    async with serve(engine, wait=False, recent_requests=1000, **given) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


async def ask(client: httpx.AsyncClient, fields: Fields) -> Fields:
    answer = await client.post(ROUTE, json=fields)
    assert answer.status_code == 200, answer.text
    told: Fields = answer.json()
    return told


def rows_of(answer: Fields) -> list[Fields]:
    rows: list[Fields] = answer["choices"][0]["entropick"]["tokens"]
    return rows


def ids_of(answer: Fields) -> list[int]:
    return [row["token_id"] for row in rows_of(answer)]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_token_gives_the_same_text(client: httpx.AsyncClient, kind: str) -> None:
    """Wherever a reply is rewound to, its own token there brings back the rest of it, to the token."""
    whole = await ask(client, body(kind))
    rows, text = rows_of(whole), whole["choices"][0]["text"]
    if kind == "clarify":
        assert sum(row["forced"] for row in rows) >= 2
    ids = ids_of(whole)
    for index in range(len(ids)):
        for token_id in (ids[index], None):
            rewind = {"request": whole["id"], "index": index, "token_id": token_id}
            again = await ask(client, body(kind, entropick={"rewind": rewind}))
            assert ids_of(again) == ids[index:], (index, token_id)
            assert [row["index"] for row in rows_of(again)] == list(range(index, len(ids)))
            assert text.endswith(again["choices"][0]["text"])
            assert again["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
            assert again["usage"]["completion_tokens"] == len(ids) - index
            if index >= 8:
                # of the prompt and the kept tokens all but the last blocks are in the cache
                counted = again["usage"]
                cached = counted["prompt_tokens_details"]["cached_tokens"]
                assert cached >= counted["prompt_tokens"] - 8 > 0


async def test_another_token(client: httpx.AsyncClient) -> None:
    """Another token is given and measured, and the draws behind it are those of its positions."""
    whole = await ask(client, body("fixed"))
    ids = ids_of(whole)
    other = next(i for i in range(32, 127) if i != ids[10])
    rewind = {"request": whole["id"], "index": 10, "token_id": other}
    again = await ask(client, body("fixed", entropick={"rewind": rewind}))
    rows = rows_of(again)
    assert (rows[0]["token_id"], rows[0]["forced"], rows[0]["index"]) == (other, True, 10)
    assert rows[0]["signals"]["logits_entropy"] == pytest.approx(
        rows_of(whole)[10]["signals"]["logits_entropy"], rel=1e-4
    )
    assert not any(row["forced"] for row in rows[1:])
    assert ids_of(again)[1:] != ids[11:]
    # the same by token ids alone, without the record
    by_ids = {"token_ids": ids[:10], "token_id": other}
    assert ids_of(await ask(client, body("fixed", entropick={"rewind": by_ids}))) == ids_of(again)
    # and rewound once more, to before and behind the first rewind
    for index, source in ((4, whole), (15, again)):
        wanted = ids if source is whole else [*ids[:10], *ids_of(again)]
        rewind = {"request": again["id"], "index": index, "token_id": wanted[index]}
        if source is whole:
            # the tokens behind it are those of the first seed's draws, as ever
            assert ids_of(await ask(client, body("fixed", entropick={"rewind": rewind}))) == ids[4:]
        else:
            assert ids_of(await ask(client, body("fixed", entropick={"rewind": rewind}))) == wanted[15:]


@pytest.mark.parametrize("kind", ["fixed", "seed", "clarify"])
async def test_by_token_ids_alone(client: httpx.AsyncClient, kind: str) -> None:
    ids = ids_of(await ask(client, body(kind)))
    for index in (0, 1, 7, 20, len(ids) - 1):
        again = await ask(client, body(kind, entropick={"rewind": {"token_ids": ids[:index]}}))
        got = ids_of(again)
        if kind != "clarify" or not rows_of(again)[0]["forced"]:
            assert got == ids[index:]


async def test_a_choice_draws_with_its_own_numbers(client: httpx.AsyncClient) -> None:
    whole = await ask(client, body("fixed", n=3))
    for choice, told in enumerate(whole["choices"]):
        ids = [row["token_id"] for row in told["entropick"]["tokens"]]
        rewind = {"request": whole["id"], "choice": choice, "index": 5}
        fields = body("fixed", entropick={"rewind": rewind})
        del fields["seed"]  # that of the recorded reply
        again = await ask(client, fields)
        assert ids_of(again) == ids[5:]
        assert again["choices"][0]["entropick"]["summary"]["choice"] == choice
        assert again["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"] + 5


@pytest.mark.parametrize("client", [{"recent_prompts": False}], indirect=True)
async def test_without_recent_prompts(client: httpx.AsyncClient) -> None:
    """A rewind needs the record's tokens alone; the client sends the prompt again."""
    whole = await ask(client, body("clarify"))
    rewind = {"request": whole["id"], "index": 3}
    assert ids_of(await ask(client, body("clarify", entropick={"rewind": rewind}))) == ids_of(whole)[3:]
    (found,) = (await client.get(f"/v1/requests/{whole['id']}")).json()["choices"]
    assert found["request"] is None
    assert found["text"] == whole["choices"][0]["text"]


REFUSED: list[tuple[Fields, str, str]] = [
    ({"entropick": {"rewind": {}}}, "entropick.rewind", "needs either"),
    ({"entropick": {"rewind": {"token_ids": [], "request": "x"}}}, "entropick.rewind", "needs either"),
    ({"entropick": {"rewind": {"request": "x"}}}, "entropick.rewind.index", "together with request"),
    ({"entropick": {"rewind": {"token_ids": [], "index": 1}}}, "entropick.rewind.index", "together with"),
    ({"entropick": {"rewind": {"indx": 1}}}, "entropick.rewind.indx", "did you mean 'index'"),
    ({"entropick": {"rewind": {"request": "nope", "index": 0}}}, "entropick.rewind.request", "remembered"),
    ({"entropick": {"rewind": {"token_ids": [99999]}}}, "entropick.rewind.token_ids", "between 0 and"),
    (
        {"entropick": {"rewind": {"token_ids": [], "token_id": -1}}},
        "entropick.rewind.token_id",
        "between 0 and",
    ),
    ({"entropick": {"rewind": {"token_ids": [65] * 40}}}, "max_tokens", "at least 41"),
    ({"n": 2, "entropick": {"rewind": {"token_ids": []}}}, "n", "goes on with one reply"),
    ({"prompt": ["a", "b"], "entropick": {"rewind": {"token_ids": []}}}, "prompt", "one reply"),
    (
        {"entropick": {"rewind": {"token_ids": []}, "consensus": {"extract": "text"}}},
        "entropick.rewind",
        "not together with entropick.consensus",
    ),
]


async def test_refusals(client: httpx.AsyncClient) -> None:
    for fields, param, words in REFUSED:
        answer = await client.post(ROUTE, json=body("fixed", **fields))
        error = answer.json()["error"]
        assert answer.status_code in (400, 404), fields
        assert (error["param"], words in error["message"]) == (param, True), error
    whole = await ask(client, body("fixed"))
    for rewind, param in (
        ({"index": 41}, "entropick.rewind.index"),
        ({"index": 0, "choice": 1}, "entropick.rewind.choice"),
    ):
        asked = body("fixed", entropick={"rewind": {"request": whole["id"], **rewind}})
        assert (await client.post(ROUTE, json=asked)).json()["error"]["param"] == param
    other = body("fixed", prompt="another", entropick={"rewind": {"request": whole["id"], "index": 1}})
    assert (await client.post(ROUTE, json=other)).json()["error"]["param"] == "entropick.rewind.request"
    text = whole["choices"][0]["text"]
    stopped = body("fixed", stop=text[2:4], entropick={"rewind": {"request": whole["id"], "index": 20}})
    assert (await client.post(ROUTE, json=stopped)).json()["error"]["param"] == "stop"
    ended = body("fixed", stop_token_ids=[ids_of(whole)[3]])
    ended["entropick"]["rewind"] = {"request": whole["id"], "index": 20}
    assert (await client.post(ROUTE, json=ended)).json()["error"]["param"] == "entropick.rewind"
