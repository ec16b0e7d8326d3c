"""The limits of a key, requests a minute and tokens in flight; other keys have their own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from entropick_server.access.limits import RequestRates, TokensInFlight
from entropick_server.protocol.errors import ApiError
from entropick_server.settings import SettingsError, load_settings

from ..support import until
from .conftest import BODY, CHAT


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(rates: RequestRates, name: str) -> ApiError:
    with pytest.raises(ApiError) as refused:
        rates.take(name)
    return refused.value


def test_a_bucket_holds_a_minute_and_fills_up_evenly() -> None:
    clock = Clock()
    rates = RequestRates(6, clock)
    left = [rates.take("alice")["x-ratelimit-remaining-requests"] for _ in range(6)]
    assert left == ["5", "4", "3", "2", "1", "0"]
    error = refusal(rates, "alice")
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "requests")
    assert error.headers["Retry-After"] == "10"
    assert error.headers["x-ratelimit-reset-requests"] == "60.000s"
    assert "key_requests_per_minute" in error.message
    # a refusal costs nothing, and what the header says holds
    clock.now += 9
    assert refusal(rates, "alice").headers["Retry-After"] == "1"
    clock.now += 1
    assert rates.take("alice")["x-ratelimit-remaining-requests"] == "0"
    refusal(rates, "alice")
    assert rates.take("bob")["x-ratelimit-remaining-requests"] == "5"
    # an hour of silence brings no more than a minute does
    clock.now += 3600
    for _ in range(6):
        rates.take("alice")
    refusal(rates, "alice")


def test_requests_of_an_hour_are_those_of_the_limit() -> None:
    clock = Clock()
    rates, taken = RequestRates(7, clock), 0
    for _ in range(36_000):
        clock.now += 0.1
        try:
            rates.take("alice")
        except ApiError:
            continue
        taken += 1
    assert taken in (7 + 7 * 60 - 1, 7 + 7 * 60)


def test_buckets_of_former_keys_are_forgotten() -> None:
    clock = Clock()
    rates = RequestRates(1, clock)
    for number in range(5000):
        clock.now += 0.1
        rates.take(f"key-{number}")
    assert len(rates._buckets) <= 2000
    refusal(rates, "key-4999")


def test_tokens_are_given_back_once() -> None:
    tokens = TokensInFlight(100)
    back = tokens.take("alice", 60, "max_tokens")
    with pytest.raises(ApiError) as full:
        tokens.take("alice", 41, "max_tokens")
    error = full.value
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "tokens")
    assert error.headers["Retry-After"] == "1"
    assert "key_max_tokens_in_flight" in error.message
    tokens.take("bob", 100, "max_tokens")
    more = tokens.take("alice", 40, "max_tokens")
    for _ in range(3):
        back()
    assert tokens.of("alice") == 40
    more()
    assert (tokens.of("alice"), tokens.of("bob")) == (0, 100)
    with pytest.raises(ApiError) as never:
        tokens.take("alice", 101, "max_tokens")
    assert (never.value.status, never.value.param) == (400, "max_tokens")


@pytest.mark.parametrize("name", ["key_requests_per_minute", "key_max_tokens_in_flight"])
def test_limits_of_keys_need_keys(name: str, monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    with pytest.raises(SettingsError, match=f"setting {name}: .* no keys are set"):
        load_settings(**{name: "10"})
    assert getattr(load_settings(**{name: "10"}, api_key_file=str(key_file)), name) == 10
    monkeypatch.setenv("ENTROPICK_API_KEY", "k")
    assert getattr(load_settings(**{name: "10"}), name) == 10
    with pytest.raises(SettingsError, match=f"setting {name}"):
        load_settings(**{name: "0"})


async def test_the_rate_of_one_key(engine: Any, serve: Any, key_file: Path, alice: Any, bob: Any) -> None:
    async with serve(engine, api_key_file=key_file, key_requests_per_minute=3) as client:
        answers = [await client.post(CHAT, json=BODY, headers=alice) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["2", "1", "0", "0", "0"]
        assert {a.headers["x-ratelimit-limit-requests"] for a in answers} == {"3"}
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        error = answers[3].json()["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
        # on every route but those of watchers
        routes = {r.path for r in client.app.routes if isinstance(r, APIRoute)}
        for path in (*routes - {"/health", "/metrics", "/", "/page/{path:path}"}, "/nope", "/openapi.json"):
            assert (await client.get(path, headers=alice)).status_code == 429, path
        for path in ("/metrics", "/health", "/"):
            assert (await client.get(path, headers=alice)).status_code == 200
        # who has no key has no share in it, and the other key has its own
        assert (await client.get("/v1/models")).status_code == 401
        his = [(await client.post(CHAT, json=BODY, headers=bob)).status_code for _ in range(4)]
        assert his == [200, 200, 200, 429]
        assert len(engine.requests) == 6


async def test_the_tokens_of_one_key(engine: Any, serve: Any, key_file: Path, alice: Any, bob: Any) -> None:
    prompt = len(b"user: Hi\n")
    limit = 2 * (prompt + 40)
    async with serve(engine, api_key_file=key_file, key_max_tokens_in_flight=limit) as client:
        gate = asyncio.Event()
        real = engine.generate

        async def held(request: Any) -> Any:
            await gate.wait()
            async for output in real(request):
                yield output

        engine.generate = held
        tokens = client.app.state.server.tokens_in_flight

        def ask(key: Any, **more: Any) -> asyncio.Task[httpx.Response]:
            body = {**BODY, "max_tokens": 40, **more}
            return asyncio.create_task(client.post(CHAT, json=body, headers=key))

        running = [ask(alice), ask(alice, stream=True)]
        await until(lambda: tokens.of("alice") == limit)
        for more in ({}, {"stream": True}, {"max_tokens": 1}):
            refused = await ask(alice, **more)
            assert refused.status_code == 429
            assert "key_max_tokens_in_flight" in refused.json()["error"]["message"]
            assert refused.headers["retry-after"] == "1"
        running.append(ask(bob, n=2, max_tokens=20))
        await until(lambda: tokens.of("bob") == prompt + 40)
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200] * 3
        assert (tokens.of("alice"), tokens.of("bob")) == (0, 0)
        assert (await ask(alice)).status_code == 200
        # what no wait would help
        never = await ask(alice, n=16)
        assert (never.status_code, never.json()["error"]["param"]) == (400, "max_tokens")
        assert (await ask(alice, n=16, max_tokens=1)).status_code == 200
        consensus = {"consensus": {"k": 8, "extract": "number"}}
        assert (await ask(alice, entropick=consensus)).status_code == 400
        assert tokens.of("alice") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_come_back_however_a_request_ends(
    engine: Any, serve: Any, key_file: Path, alice: Any, stream: bool
) -> None:
    async with serve(engine, api_key_file=key_file, key_max_tokens_in_flight=300) as client:
        tokens = client.app.state.server.tokens_in_flight
        body = {**BODY, "stream": stream}
        engine.fail_after = 2
        await client.post(CHAT, json=body, headers=alice)
        engine.full = True
        assert (await client.post(CHAT, json=body, headers=alice)).status_code == 503
        engine.full, engine.fail_after, engine.delay = False, None, 0.05
        task = asyncio.create_task(client.post(CHAT, json=body, headers=alice))
        await until(lambda: engine.running)
        assert tokens.of("alice") > 0
        task.cancel()
        await asyncio.wait({task})
        assert tokens.of("alice") == 0
