"""Health over the server's life, and what it tells about itself."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace
from typing import Any, get_args

import httpx
import pytest

from entropick_sampler.branch_config import BRANCH_NAMES
from entropick_sampler.layer_entropy import LayerEntropy, layer_entropy
from entropick_sampler.params import PARAM_NAMES, PolicyConfig, PolicyName, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.engine.base import ModelLoadError
from entropick_server.engine.types import BranchRecord, KeptToken
from entropick_server.recent import Finished, RecentRequests
from entropick_server.series import Series

from .support import until

BODY = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


async def test_health_while_loading_and_after(engine: Any, serve: Any) -> None:
    engine.load_gate.clear()
    async with serve(engine, wait=False) as client:
        for method, path in (
            ("GET", "/health"),
            ("POST", CHAT),
            ("GET", "/v1/models"),
            ("GET", "/v1/policy"),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert "retry-after" in answer.headers
        assert (await client.head("/health")).status_code == 503
        engine.load_gate.set()
        await until(lambda: client.app.state.server.ready)
        assert (await client.head("/health")).status_code == 200
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_draining_refuses_new_requests_and_lets_the_running_end(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.delay = 0.005
        running = asyncio.create_task(client.post(CHAT, json=BODY))
        await until(lambda: engine.running)
        client.app.state.server.draining = True
        for method, path in (("GET", "/health"), ("POST", CHAT)):
            answer = await client.request(method, path, json=BODY)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "shutting_down"
        assert (await running).status_code == 200


async def test_a_stopped_engine(engine: Any, serve: Any) -> None:
    async with serve(engine) as client:
        engine.ready = False
        answer = await client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_stopped"


@pytest.mark.parametrize("error", [ModelLoadError("no such folder"), OSError("disk")])
async def test_a_model_that_cannot_be_loaded(engine: Any, error: Exception) -> None:
    from entropick_server.app import create_app
    from entropick_server.settings import Settings

    engine.load_error = error
    told: list[BaseException] = []
    app = create_app(engine, Settings(), told.append)
    async with app.router.lifespan_context(app):
        await until(lambda: told)
        assert told == [error]
        assert not app.state.server.ready


async def test_leaving_while_loading(engine: Any, serve: Any) -> None:
    engine.load_gate.clear()
    async with serve(engine, wait=False):
        pass


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json()["version"]


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["fake"]
    assert (await client.get("/v1/models/fake")).json() == listed["data"][0]


async def test_policy_without_a_profile(client: httpx.AsyncClient) -> None:
    told = (await client.get("/v1/policy")).json()
    assert told["default"] == {
        "policy": "entropix",
        "preset": "seed",
        "overrides": {},
        "branch": None,
        "consensus": None,
        "telemetry": "summary",
        "genuineness": "scores",
        "layer_entropy": None,
    }
    assert told["profile"] is None
    assert set(told["presets"]) == {"seed"}
    assert [signal["name"] for signal in told["signals"]] == list(SIGNAL_NAMES)
    assert set(told["overrides"]) == set(PARAM_NAMES)
    assert set(told["branch"]) == set(BRANCH_NAMES)
    assert set(told["formulas"]) == {*get_args(PolicyName)} - {"entropix", "fixed"}
    assert told["formulas"]["edt"]["parameters"]["edt_base"] == 0.8
    for formula in told["formulas"].values():
        assert formula["sets"] in ("temperature", "min_p")
        assert all(name in formula["formula"] for name in formula["parameters"] if "temperature_" not in name)
        assert set(formula["parameters"]) <= set(told["overrides"])
    assert told["branch"]["width"] == {"min": 2, "max": 16}


async def test_policy_with_a_profile(engine: Any, serve: Any, profile: Any) -> None:
    engine.profile = profile
    async with serve(engine) as client:
        told = (await client.get("/v1/policy")).json()
        assert told["default"]["preset"] == "calibrated"
        assert told["profile"]["id"] == profile.id
        assert told["profile"]["model_hash"] == "m"
        assert told["presets"]["calibrated"]["greedy_entropy"] == 0.5


async def test_recent_requests(engine: Any, serve: Any) -> None:
    async with serve(engine, recent_requests=3) as client:
        answers = [
            (await client.post(CHAT, json=BODY, headers={"X-Request-Id": f"mine-{n}"})).json()
            for n in range(4)
        ]
        listed = (await client.get("/v1/requests")).json()["data"]
        assert [r["request_id"] for r in listed] == ["mine-3", "mine-2", "mine-1"]
        assert (await client.get(f"/v1/requests/{answers[0]['id']}")).status_code == 404
        found = (await client.get(f"/v1/requests/{answers[3]['id']}")).json()["choices"][0]
        assert found["finish_reason"] == "stop"
        assert found["completion_tokens"] == answers[3]["usage"]["completion_tokens"]
        assert found["summary"] == answers[3]["choices"][0]["entropick"]["summary"]
        series = found["series"]
        assert {len(column) for column in series.values()} == {found["completion_tokens"]}
        assert set(SIGNAL_NAMES) < set(series)
        assert found["text"] == answers[3]["choices"][0]["message"]["content"]
        assert found["model_hash"] == "h"
        assert found["branches"] == found["kept_token_ids"] == []
        assert series["token"][-1] == "<eos>"
        assert series["agreement"] == [None] * found["completion_tokens"]
        assert series["strategy"][0] == "greedy"
        assert series["forced"][:3] == [False, True, False]
        assert (series["temperature"][1], series["top_k"][1]) == (0.7, 50)


async def test_a_recent_request_says_how_it_is_made_again(engine: Any, serve: Any) -> None:
    """The body under ``request`` asks the engine for the same, with the server's defaults written out."""
    given = {"overrides": {"temperature": 0.5}, "branch": {"width": 2, "budget": 0.5}, "telemetry": "tokens"}
    fields = {**BODY, "n": 2, "stop": ["x"], "stop_token_ids": [65], "top_k": 9, "max_tokens": 9}
    fields |= {"presence_penalty": 1.5, "frequency_penalty": -1, "repetition_penalty": 1.1, "min_tokens": 2}
    fields |= {"logit_bias": {"66": -2.5}, "bad_words": ["ab", "é"], "allowed_token_ids": [66, 67, 97]}
    asked = {"overrides": {"clarify_budget": 3}, "genuineness": True}
    async with serve(engine, **given) as client:
        answer = (await client.post(CHAT, json={**fields, "entropick": asked})).json()
        for choice in (await client.get(f"/v1/requests/{answer['id']}")).json()["choices"]:
            again = await client.post("/v1/completions", json=choice["request"])
            assert again.status_code == 200, again.text
            first, second = engine.requests[choice["choice"]], engine.requests[-1]
            for name in ("prompt_token_ids", "sampling", "policy", "choice"):
                assert getattr(second, name) == getattr(first, name), name
            told = choice["request"]
            assert (told["seed"], told["max_tokens"], told["top_k"]) == (first.sampling.seed, 9, 9)
            assert told["entropick"]["branch"]["width"] == 2
            assert "temperature" not in told
            assert told["bad_words"] == ["ab", "é"]


async def test_the_layers_are_asked_for_again(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=BODY)
    server = client.app.state.server  # type: ignore[attr-defined]
    (made,), vocabulary = server.recent.newest(), server.model.vocabulary
    for asked in (None, LayerEntropy(4), LayerEntropy(2, (0, 3))):
        body = replace(made, policy=replace(made.policy, layer_entropy=asked)).request(vocabulary)
        told = body["entropick"]["layer_entropy"]
        assert asked == (layer_entropy(told) if told else None)


async def test_prompts_can_be_left_out(engine: Any, serve: Any) -> None:
    async with serve(engine, recent_prompts=False) as client:
        answer = (await client.post(CHAT, json={**BODY, "stop": "secret", "bad_words": ["hush"]})).json()
        page = await client.get(f"/v1/requests/{answer['id']}")
        assert page.json()["choices"][0]["request"] is None
        assert "secret" not in page.text
        assert "hush" not in page.text
        kept = client.app.state.server.recent.newest()[0]
        assert kept.prompt_token_ids is None
        assert kept.sampling.stop == ()


async def test_a_recent_request_by_the_clients_own_id(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = (await client.post(CHAT, json=BODY, headers={"X-Request-Id": "mine"})).json()
    found = (await client.get("/v1/requests/mine")).json()
    assert found["id"] == answer["id"]
    assert found == (await client.get(f"/v1/requests/{answer['id']}")).json()


async def test_an_answers_choices_stay_together(engine: Any, serve: Any) -> None:
    async with serve(engine, recent_requests=1) as client:
        answer = (await client.post("/v1/completions", json={"prompt": ["a", "b", "c"]})).json()
        found = (await client.get(f"/v1/requests/{answer['id']}")).json()
        assert [choice["choice"] for choice in found["choices"]] == [0, 1, 2]


async def test_nothing_is_remembered_with_a_limit_of_zero(engine: Any, serve: Any) -> None:
    async with serve(engine, recent_requests=0) as client:
        await client.post(CHAT, json=BODY)
        assert (await client.get("/v1/requests")).json()["data"] == []
    assert RecentRequests(0).newest() == []


def finished(answer: str, choice: int, tokens: int, summary: Any, owner: str | None = None) -> Finished:
    series = Series(
        array("q", [65] * tokens),
        array("b", [0] * tokens),
        array("b", [0] * tokens),
        tuple(array("d", [1.0] * tokens) for _ in range(5)),
        tuple(array("d", [1.0] * tokens) for _ in SIGNAL_NAMES),
    )
    made = Finished(answer, choice, "r", summary, series, {}, "", SamplingParams(), PolicyConfig())
    return replace(made, owner=owner)


async def test_a_key_pushes_no_other_keys_requests_out(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=BODY)
    summary = client.app.state.server.recent.newest()[0].summary  # type: ignore[attr-defined]

    def names(recent: RecentRequests) -> dict[str, list[str]]:
        return {owner: [kept.id for kept in recent.newest(owner)] for owner in ("ann", "bob", "cy")}

    for recent in (
        RecentRequests(6),
        RecentRequests(1_000, max_bytes=6 * finished("x", 0, 100, summary).size),
    ):
        for n in range(3):
            recent.add(finished(f"ann{n}", 0, 100, summary, "ann"))
        for n in range(50):
            recent.add(finished(f"bob{n}", 0, 100, summary, "bob"))
        assert names(recent) == {
            "ann": ["ann2", "ann1", "ann0"],
            "bob": ["bob49", "bob48", "bob47"],
            "cy": [],
        }
        # who comes later gets a share, from whom has the most, and no more
        for n in range(50):
            recent.add(finished(f"cy{n}", 0, 100, summary, "cy"))
        kept = names(recent)
        assert [len(kept[owner]) for owner in kept] == [2, 2, 2]
        assert (kept["ann"], kept["bob"], kept["cy"]) == (
            ["ann2", "ann1"],
            ["bob49", "bob48"],
            ["cy49", "cy48"],
        )
        assert recent.find("ann0", "ann") == []
        assert recent.size == sum(one.size for owner in kept for one in recent.newest(owner))
        # one with many choices pushes nobody out either, and keeps its first ones
        for choice in range(100):
            recent.add(finished("large", choice, 100, summary, "bob"))
        assert (names(recent)["ann"], names(recent)["cy"]) == (kept["ann"], kept["cy"])
        choices = [one.choice for one in recent.find("large", "bob")]
        assert choices == list(range(len(choices)))
        assert len(choices) >= 2
        assert recent.size <= recent._max_bytes


async def test_recent_requests_are_bounded_in_bytes(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=BODY)
    (made,) = client.app.state.server.recent.newest()  # type: ignore[attr-defined]
    one = finished("x", 0, 1000, made.summary)
    assert one.size > 1000 * (8 + 1 + 1 + 8 * (5 + len(SIGNAL_NAMES)))
    grown = replace(
        one,
        text="x" * 1000,
        branches=((0, (BranchRecord((1,) * 1000, 0.0, True),)),),
        kept=(KeptToken(1),) * 1000,
        prompt_token_ids=array("i", [1] * 1000),
    )
    assert grown.size > one.size + 1000 * (1 + 8 + 64 + 4)
    recent = RecentRequests(1_000, max_bytes=5 * one.size)
    for n in range(20):
        recent.add(finished(f"a{n}", 0, 1000, made.summary))
        assert recent.size == sum(kept.size for kept in recent.newest()) <= 5 * one.size
    assert [kept.id for kept in recent.newest()] == ["a19", "a18", "a17", "a16", "a15"]
    # an answer with more choices than there is room for drives the others out, and keeps its first ones
    for choice in range(9):
        recent.add(finished("many", choice, 1000, made.summary))
    assert [(kept.id, kept.choice) for kept in recent.newest()] == [("many", choice) for choice in range(5)]
    recent.add(finished("huge", 0, 6000, made.summary))
    assert recent.find("huge") == []
    recent.add(finished("next", 0, 10, made.summary))
    assert [kept.id for kept in recent.newest()] == ["next"]
    assert recent.size == recent.newest()[0].size


async def test_an_answer_of_many_choices_is_bounded(engine: Any, serve: Any) -> None:
    """What a client can make the server keep is bounded in bytes, not in HTTP requests alone."""
    async with serve(engine, max_n=64, telemetry="none") as client:
        recent = client.app.state.server.recent = RecentRequests(64, max_bytes=200_000)
        for _ in range(3):
            body = {"prompt": ["x"] * 8, "n": 7, "max_tokens": 2}
            answer = await client.post("/v1/completions", json=body)
            assert len(answer.json()["choices"]) == 56
            assert 0 < recent.size <= 200_000
            listed = (await client.get("/v1/requests")).json()["data"]
            assert {entry["id"] for entry in listed} == {answer.json()["id"]}
            assert 0 < len(listed) < 56


async def test_openapi_shows_the_wire(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"ChatRequest", "CompletionRequest", "EntropickOptions", "UserMessage"} <= set(schemas)
    assert set(schemas["SignalValues"]["properties"]) == set(SIGNAL_NAMES)
    route = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]
    assert route["schema"]["$ref"] == "#/components/schemas/ChatRequest"


@pytest.mark.parametrize(
    ("method", "path", "subject"),
    [
        ("POST", "/v1/embeddings", "Embeddings"),
        ("POST", "/v1/rerank", "Reranking"),
        ("POST", "/v2/rerank", "Reranking"),
        ("POST", "/v1/audio/transcriptions", "Sound"),
        ("POST", "/v1/audio/speech", "Sound"),
        ("POST", "/v1/images/generations", "Pictures"),
        ("POST", "/v1/moderations", "Moderation"),
        ("GET", "/v1/batches/batch_1", "Files and batches"),
        ("POST", "/v1/files", "Files and batches"),
        ("DELETE", "/v1/files/file-1", "Files and batches"),
        ("POST", "/v1/fine_tuning/jobs", "Training"),
        ("POST", "/v1/load_lora_adapter", "Adapters"),
        ("POST", "/v1/messages", "Anthropic's API"),
        ("POST", "/generate", "The API of TGI and SGLang"),
        ("POST", "/completion", "llama.cpp's own API"),
    ],
)
async def test_routes_of_others_are_refused_by_name(
    client: httpx.AsyncClient, method: str, path: str, subject: str
) -> None:
    answer = await client.request(method, path, json={"input": "x"})
    error = answer.json()["error"]
    assert answer.status_code == 404  # a 5xx would be repeated by clients
    assert (error["type"], error["code"]) == ("invalid_request_error", "route_not_served")
    assert error["message"].startswith(f"{subject} ")
    other = (await client.post(f"{path.rstrip('/')}x")).json()["error"]
    assert other["code"] in ("route_not_found", "route_not_served")


async def test_a_route_that_nobody_has(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/embeddingsx")).json()["error"]
    assert error["code"] == "route_not_found"


async def test_load(client: httpx.AsyncClient, engine: Any) -> None:
    """As vLLM's: the number of requests that are served now."""
    assert (await client.get("/load")).json() == {"server_load": 0}
    engine.delay = 0.02
    asked = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(3)]
    while len(engine.running) < 3:
        await asyncio.sleep(0.005)
    assert (await client.get("/load")).json() == {"server_load": 3}
    await asyncio.gather(*asked)
    assert (await client.get("/load")).json() == {"server_load": 0}


async def test_several_ids_of_a_model(serve: Any, engine: Any) -> None:
    engine.info = replace(engine.info, name="one")
    async with serve(engine, served_model_name="one,org/two") as client:
        cards = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["one", "org/two"]
        assert (await client.get("/v1/models/org/two")).json()["root"] == "one"
        for name in ("one", "org/two"):
            answer = await client.post(CHAT, json={**BODY, "model": name})
            assert answer.json()["model"] == "one"
        assert (await client.post(CHAT, json={**BODY, "model": "three"})).status_code == 404
