"""The client helper on whole answers and both kinds of streams, of the openai package and of plain JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from entropick.client import Telemetry

from ..server.conftest import FakeEngine, running

BODY: dict[str, Any] = {"model": "fake", "prompt": ["ab", "cd"], "seed": 3, "max_tokens": 20}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with running(FakeEngine()) as client:
        yield client


def asked(at_end: bool | None = None) -> dict[str, Any]:
    return {"telemetry": "tokens", **({} if at_end is None else {"at_end": at_end})}


async def test_every_way_to_get_an_answer_gives_the_same(client: httpx.AsyncClient) -> None:
    whole = Telemetry()
    whole.add((await client.post("/v1/completions", json={**BODY, "entropick": asked()})).json())
    assert [row["index"] for row in whole.tokens(1)] == list(range(20))
    assert whole.summary(1) is not None
    openai = AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=client, max_retries=0)
    for at_end in (False, True):
        plain = Telemetry()
        text = (
            await client.post("/v1/completions", json={**BODY, "stream": True, "entropick": asked(at_end)})
        ).text
        events = [line[6:] for line in text.split("\n\n") if line.startswith("data: {")]
        assert len(list(plain.watch(json.loads(event) for event in events))) == len(events)
        typed = Telemetry()
        stream = await openai.completions.create(**BODY, stream=True, extra_body={"entropick": asked(at_end)})
        before = 0
        async for chunk in stream:
            typed.add(chunk)
            assert len(typed.tokens()) >= before
            before = len(typed.tokens())
        for seen in (plain, typed):
            for choice in (0, 1):
                assert seen.tokens(choice) == whole.tokens(choice)
                assert seen.summary(choice) == whole.summary(choice)


async def test_an_answer_without_telemetry(client: httpx.AsyncClient) -> None:
    seen = Telemetry()
    body = {**BODY, "entropick": {"telemetry": "none"}}
    seen.add((await client.post("/v1/completions", json=body)).json())
    seen.add({"id": "x", "choices": []})  # the chunk with the usage
    seen.add({"error": {"message": "no"}})
    assert seen.tokens() == seen.tokens(7) == []
    assert seen.summary() is None


def test_it_brings_nothing_of_the_server() -> None:
    ours = "[m for m in sys.modules if m.startswith(('entropick_', 'torch'))]"
    code = f"import sys, entropick.client; print({ours})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
