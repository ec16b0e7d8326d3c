"""An engine thread that dies under load: every client is told at once, and /health tells it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, StepReport

from ..support import Client, until

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
BODY = {"prompt": "Once", "max_tokens": 50, "ignore_eos": True, "seed": 1}


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
        max_num_seqs=2,
    )
    engine = EmbeddedEngine(options, profile_cache=tmp_path)
    async with serve(engine, wait=False, max_num_seqs=2) as client:
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        yield client


class _Gone(BaseException):
    """No Exception, like SystemExit."""


@pytest.mark.parametrize("error", [torch.AcceleratorError, _Gone])
async def test_everyone_is_told(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    app: Any = client.app  # type: ignore[attr-defined]
    dead, plain_step = False, EngineCore.step

    def step(core: EngineCore) -> StepReport:
        time.sleep(0.05)  # so that nothing ends by itself
        if dead:
            raise error("the device is lost")
        return plain_step(core)

    monkeypatch.setattr(EngineCore, "step", step)
    if error is _Gone:
        monkeypatch.setattr("threading.excepthook", lambda _: None)
    streams = [Client(app, {**BODY, "stream": True}, PLAIN) for _ in range(2)]
    for stream in streams:
        await stream.arrived.wait()
    behind = [Client(app, {**BODY, "stream": True, "n": 2}, PLAIN) for _ in range(2)]
    plain = [asyncio.create_task(client.post(PLAIN, json={**BODY, "prompt": ["a", "b"]})) for _ in range(2)]
    await until(lambda: app.state.server.admission.replies == 2 + 4 + 4)
    dead, began = True, time.monotonic()
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*plain)
        await asyncio.gather(*(stream.task for stream in (*streams, *behind)))
    print(f"told within {time.monotonic() - began:.3f} s")
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")
    for stream in streams:
        text = b"".join(message.get("body", b"") for message in stream.messages).decode()
        assert json.loads(text.strip().rsplit("data: ", 1)[1])["error"]["code"] == "engine_stopped"
    for stream in behind:
        assert "engine_stopped" in str(stream.messages)
    assert (await client.get("/health")).status_code == 503
    refused = await client.post(PLAIN, json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_stopped")
    assert app.state.server.in_flight == 0
