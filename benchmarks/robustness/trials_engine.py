"""Trials of the engine's faults, and of what was whole before and must stay so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from .cuts import count
from .extremes import Asked
from .fuzz import fuzz
from .rows import ROOT
from .rows_server import LONG
from .served import GOOD, Served, descendants
from .trial import Result, Trial, by_tests, milliseconds, trial
from .wire import CHAT, PLAIN, events

_GROUP: Final = "The engine"
_KEPT: Final = "To keep"
_ENGINE_TESTS: Final = "tests/server/engine/test_embedded_engine.py"
_WITHIN: Final = 2.0
"""seconds within which a client must know that the engine has failed"""
_FAILS_ON_SIGNAL: Final = (
    "import runpy, signal, sys\n"
    "from entropick_server.engine.embedded.model_runner import ModelRunner\n"
    "forward, asked = ModelRunner.forward, []\n"
    "def failing(self, batch):\n"
    "    if asked: raise RuntimeError('injected by the trial')\n"
    "    return forward(self, batch)\n"
    "ModelRunner.forward = failing\n"
    "signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_module('entropick_server.cli', run_name='__main__')\n"
)
"""a server each of whose steps raises from SIGUSR1 on"""
_VLLM_HERE: Final = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
"""variables for a small model on a CPU (docs/vllm.md)"""


async def _told_of_the_end(served: Served, hurt: Any) -> Result:
    """Hurts the engine in mid-stream, and tells how soon the clients know."""
    await served.good()
    started = asyncio.Event()

    async def read() -> str:
        last: Any = None
        async for event in events(served.port, LONG | {"max_tokens": 900}):
            started.set()
            last = event
        return json.dumps(last.get("error")) if isinstance(last, dict) and "error" in last else ""

    reading = asyncio.create_task(read())
    waiting = asyncio.create_task(served.ask("POST", CHAT, LONG | {"max_tokens": 900}))
    await asyncio.wait_for(started.wait(), 60)
    await asyncio.sleep(0.3)
    begin = time.monotonic()
    hurt(served)
    try:
        ended = await asyncio.wait_for(reading, 30)
        stream = time.monotonic() - begin
        plain = await asyncio.wait_for(waiting, 30)
        answer = time.monotonic() - begin
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        return Result(f"no error in the stream or the answer: {type(error).__name__}", False)
    after = await served.ask("POST", CHAT, GOOD, seconds=10)
    figures = (
        f"a stream ends with an error after {milliseconds(stream)}, a plain answer with {plain.status} after "
        f"{milliseconds(answer)}; the next request gets {after.status}"
    )
    held = bool(ended) and plain.error is not None and stream < _WITHIN and answer < _WITHIN
    return Result(figures, held and after.error is not None)


@trial("engine-raises", _GROUP, "every step of the engine's thread raises", "not shown")
async def engine_raises() -> Result:
    command = [sys.executable, "-c", _FAILS_ON_SIGNAL, "entropick", "serve"]
    async with Served(command=command) as served:
        return await _told_of_the_end(served, lambda it: it.signal(signal.SIGUSR1))


@trial("kill-vllm-engine", _GROUP, "kill -9 of vLLM's engine process", "not shown")
async def kill_vllm() -> Result:
    python = Path(os.environ.get("VENV_VLLM", ROOT / ".venv-vllm")) / "bin" / "python"
    if not python.exists():
        return Result("not run: make test-vllm sets vLLM up", None)

    def kill(served: Served) -> None:
        below = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(served.process.pid)}
        (core,) = [pid for pid, name in below.items() if b"EngineCore" in name]
        os.kill(core, signal.SIGKILL)

    command = [str(python), "-m", "entropick_server.cli", "serve", "--engine", "vllm"]
    async with Served(command=command, changes=_VLLM_HERE) as served:
        return await _told_of_the_end(served, kill)


@trial(
    "fuzz",
    _KEPT,
    "705 extreme requests at once under pressure (`make fuzz`)",
    "611 preemptions, 172 leavers, no failure",
)
async def extremes() -> Result:
    figures, faults = await fuzz(705, 1, 0.25, 1800)
    return Result(figures, not faults)


@trial("memory-5000", _KEPT, "memory over 5,000 requests", "flat")
async def memory() -> Result:
    async with Served() as served:
        await served.good()
        bodies: tuple[Asked, ...] = (
            (CHAT, {**GOOD, "entropick": {"telemetry": "full"}}),
            (PLAIN, {"prompt": "Hello", "max_tokens": 12, "n": 2}),
            (CHAT, {**LONG, "max_tokens": 24, "stream": True}),
            (CHAT, {**GOOD, "stop": ""}),
        )
        sizes = []
        for _ in range(5):
            for at in range(0, 1000, 20):
                await asyncio.gather(*(served.ask("POST", *bodies[i % 4]) for i in range(at, at + 20)))
            sizes.append(served.resident_mib())
        fine = await served.idle() and await served.good()
        figures = f"{' / '.join(f'{size:.0f}' for size in sizes)} MiB after 1,000 / 2,000 / ... / 5,000"
        return Result(figures, fine and sizes[-1] - sizes[0] < 64)


@trial("cuts", _KEPT, "stop strings and split characters, however tokens cut them", "671,443 cuts exact")
async def every_cut() -> Result:
    tried, wrong = await asyncio.to_thread(count)
    return Result(f"{tried:,} cuts, {len(wrong)} of them wrong{': ' + wrong[0] if wrong else ''}", not wrong)


ENGINE: Final[tuple[Trial, ...]] = (
    by_tests(
        "nan-logits",
        _GROUP,
        "NaN in a request's logits",
        "held; kept",
        f"{_ENGINE_TESTS}::test_bad_logits_fail_their_request_alone",
    ),
    by_tests(
        "step-raises",
        _GROUP,
        "an exception in a step of one request",
        "all requests of the step ended",
        "tests/server/engine/test_isolation.py::test_who_makes_a_step_raise_ends_alone",
        "tests/server/engine/test_isolation.py::"
        "test_where_every_step_raises_all_end_and_the_next_request_is_served",
        f"{_ENGINE_TESTS}::test_a_step_that_raises_ends_its_requests_and_the_engine_goes_on",
        "tests/server/engine/test_engine_thread.py::test_a_failing_step_ends_its_request_and_the_others_go_on",
    ),
    engine_raises,
    by_tests(
        "lost-device",
        _GROUP,
        "a device that is lost",
        "held; kept",
        f"{_ENGINE_TESTS}::test_a_lost_device_ends_the_engine",
    ),
    kill_vllm,
    extremes,
    memory,
    by_tests(
        "poisoned-neighbours",
        _KEPT,
        "the neighbours of a poisoned request",
        "unchanged",
        "tests/server/engine/test_shared_blocks.py::test_bad_logits_hurt_no_sharer_and_leave_no_block_behind",
    ),
    every_cut,
)
"""the trials of this module"""
