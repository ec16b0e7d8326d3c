"""A plain vLLM server with our processor: what docs/vllm.md shows works, and a mistake is a 400."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, Request

PROMPT = [1, *range(20, 40)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of vLLM's own server. ``entropick_open`` is never called: nobody but vLLM drives it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    log = tmp_path_factory.mktemp("plain") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path()),
        "--served-model-name", "pico", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--enforce-eager", "--distributed-executor-backend", "uni",
        "--logits-processors", "entropick_server.engine.vllm.processor:EntropickProcessor",
        # registers what the entry point does where the package is installed
        "--worker-extension-cls", "entropick_server.engine.vllm.worker_extension.WorkerExtension",
    ]  # fmt: skip
    here = {"ENTROPICK_LAYERS": "0,1,2,3", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **here})
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 180
    try:
        while time.monotonic() < end and process.poll() is None:
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            raise RuntimeError(f"vLLM did not start:\n{log.read_text(errors='replace')[-6000:]}")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def complete(url: str, told: Any, **fields: Any) -> httpx.Response:
    body = {
        "model": "pico",
        "prompt": PROMPT,
        "max_tokens": 24,
        "ignore_eos": True,
        "return_token_ids": True,
        **fields,
    }
    if told is not None:
        body["vllm_xargs"] = {"entropick": told if isinstance(told, str) else json.dumps(told)}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=120)


@pytest.fixture
async def ours() -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(EngineOptions(model=str(model_path())))
    await engine.start()
    yield engine
    await engine.close()


@pytest.mark.parametrize("preset", ["calibrated", "seed"])
async def test_it_says_what_the_embedded_engine_says(
    plain: str, ours: EmbeddedEngine, preset: Any, tmp_path: Path
) -> None:
    """The profile beside the weights is read, all layers are measured, the seed is the request's."""
    for seed in (3, 4):
        request = Request(
            f"{preset}-{seed}",
            tuple(PROMPT),
            SamplingParams(seed=seed, max_tokens=24, ignore_eos=True),
            PolicyConfig(preset=preset),
            time.monotonic(),
        )
        wanted = [t.token_id async for o in ours.generate(request) for t in o.tokens]
        answer = complete(plain, {"preset": preset}, seed=seed)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["token_ids"] == wanted


def test_requests_without_our_field_are_vllms(plain: str) -> None:
    first, again = (complete(plain, None, temperature=0).json()["choices"][0] for _ in range(2))
    assert first["token_ids"] == again["token_ids"]
    # a loop, which the preset would draw in, is none here
    overrides = {"greedy_entropy": 64, "greedy_varentropy": 4096, "loop_length": 0}
    greedy = complete(plain, {"overrides": overrides})
    assert greedy.json()["choices"][0]["token_ids"] == first["token_ids"]


def test_mistakes_are_bad_requests(plain: str) -> None:
    for told, message in (
        ({"overrides": {"top_p": 7}}, "entropick.overrides.top_p"),
        ({"polcy": "fixed"}, "entropick.polcy"),
        ("{", "JSON"),
    ):
        answer = complete(plain, told)
        assert answer.status_code == 400, answer.text
        assert message in answer.text
    assert complete(plain, {}).status_code == 200
