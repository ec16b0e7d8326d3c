"""Native code that is compiled beside a server: torch's operations serve first, native code from then on."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from entropick_kernels import adjust, attention_stats, decoder, logits_stats, native_code, sample
from entropick_sampler import batch, compile_native
from entropick_sampler.params import PolicyConfig
from entropick_server.engine.embedded import compiling, native_decoder, startup
from entropick_server.engine.embedded.compiling import Compilation
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.embedded.torch_decoder import TorchDecoder
from entropick_server.engine.tokens import NO_WINDOW
from entropick_server.engine.types import EngineOptions, Request, Token

from .conftest import BLOCK, Room, same

pytestmark = pytest.mark.skipif(not decoder.available(), reason="numba is not installed")
UNWATCHED = PolicyConfig(preset="seed", telemetry="tokens", genuineness=False)


def watched_step(token: Token) -> bool:
    """Whether the windows of genuineness took the token's step."""
    return any(x is not None for x in token.signals[-len(NO_WINDOW.values) :])


@pytest.fixture
def held() -> Iterator[None]:
    native_code.hold()
    yield
    native_code.release()


@pytest.fixture
def no_native_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Native functions that fail, so that a call of any of them shows; the result undoes it."""

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            if name in ("supports", "CELLS"):
                return lambda *_: True
            raise AssertionError(f"native code was called: {name}")

    with monkeypatch.context() as patch:
        for module in (adjust, attention_stats, logits_stats, sample):
            patch.setattr(module, "_loops", Forbidden())
        patch.setattr(batch, "_native", Forbidden())
        patch.setattr(native_decoder, "pack_decoder", Forbidden())
        yield patch.undo


@pytest.mark.parametrize("block", [BLOCK, 16, 32])
def test_nothing_native_runs_while_it_is_held_and_all_of_it_afterwards(
    block: int,
    room: Callable[..., Room],
    make_request: Callable[..., Request],
    held: None,
    no_native_calls: Callable[[], None],
) -> None:
    # a prompt of some blocks, which a later request finds again
    prompt = tuple(range(1, 71))
    own = room(block_size=block)
    whole = make_request(prompt, policy=UNWATCHED, temperature=0.0, max_tokens=12, seed=5)
    own.add(whole)
    for _ in range(5):
        own.step()
    assert isinstance(own.core._runner.decoder, TorchDecoder)
    watched = make_request(
        (1, 2, 3), policy=PolicyConfig(preset="seed", genuineness="scores"), max_tokens=40, seed=5
    )
    own.add(watched)
    for _ in range(2):
        own.step()
    assert not any(watched_step(t) for t in own.tokens[watched.request_id])
    no_native_calls()
    startup.use_native(own.core)
    assert isinstance(own.core._runner.decoder, decoder.NativeDecoder)
    own.finish()
    assert watched_step(own.tokens[watched.request_id][-1])
    native = room(block_size=block)
    again = make_request(prompt, policy=UNWATCHED, temperature=0.0, max_tokens=12, seed=5)
    native.add(again)
    native.finish()
    wanted = native.tokens[again.request_id]
    same(own.tokens[whole.request_id], wanted)
    found = make_request(prompt, policy=UNWATCHED, temperature=0.0, max_tokens=12, seed=5)
    own.add(found)
    own.finish()
    assert own.cached[found.request_id] >= 64 - block
    same(own.tokens[found.request_id], wanted)


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_code_is_missing_until_it_is_noted_for_these_sources_and_this_processor(tmp_path: Path) -> None:
    ask = "from entropick_sampler import compile_native as c; print(c.missing())"
    assert run(ask, tmp_path) == "True"
    note = "from entropick_kernels import native_code as n; n.note_compiled('entropick_sampler')"
    run(note, tmp_path)
    assert run(ask, tmp_path) == "False"
    other = "from llvmlite import binding; binding.get_host_cpu_name = lambda: 'other'; "
    assert run(other + ask, tmp_path) == "True"


def test_what_ends_well_is_told_and_what_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, held: None
) -> None:
    caplog.set_level(logging.INFO)
    told = threading.Event()
    monkeypatch.setattr(compiling, "COMMAND", [sys.executable, "-c", "pass"])
    Compilation().when_done(told.set)
    assert told.wait(30)
    failed = threading.Event()
    monkeypatch.setattr(compiling, "COMMAND", [sys.executable, "-c", "raise SystemExit(3)"])
    compilation = Compilation()
    compilation._wait(failed.set)
    assert not failed.is_set()
    assert "exit code 3" in caplog.text


def test_a_stop_ends_the_process(monkeypatch: pytest.MonkeyPatch, held: None) -> None:
    monkeypatch.setattr(compiling, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
    compilation = Compilation()
    told = threading.Event()
    compilation.stop()
    compilation._wait(told.set)
    assert not told.is_set()
    assert compilation._process.returncode < 0


@pytest.mark.parametrize(
    "more",
    [
        {"compile_beside": False},
        {"batch_invariant": True},
        {"kernels": "numba"},
        {"decoder": "torch"},
        {"measure": False},
        {"weights": "int8"},
    ],
)
def test_some_options_wait_for_native_code(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    monkeypatch.setattr(compile_native, "missing", lambda: True)
    monkeypatch.setattr(compiling, "Compilation", lambda: pytest.fail("a process began"))
    options = EngineOptions(**{"model": "none", "device": "cpu", "compile_beside": True, **more})
    assert compiling.begin(options) is None


async def test_an_engine_serves_at_once_and_natively_as_soon_as_it_can(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    make_request: Callable[..., Request],
) -> None:
    gate = tmp_path / "gate"
    wait = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(.02)"
    monkeypatch.setattr(compile_native, "missing", lambda: True)
    monkeypatch.setattr(compiling, "COMMAND", [sys.executable, "-c", wait, str(gate)])
    options = EngineOptions(
        model=str(model_folder("llama")), device="cpu", threads=1, calibrate=False, compile_beside=True
    )
    engine = EmbeddedEngine(options, None, profile_cache=tmp_path / "profiles")
    try:
        await engine.start()
        assert not native_code.usable()
        texts = []
        for _ in range(2):
            request = make_request((5, 6, 7), policy=UNWATCHED, temperature=0.0, max_tokens=6, seed=1)
            texts.append([t.token_id async for output in engine.generate(request) for t in output.tokens])
            gate.touch()
            while not native_code.usable():
                await asyncio.sleep(0.01)
        assert texts[0] == texts[1]
    finally:
        await engine.close()
        native_code.release()
