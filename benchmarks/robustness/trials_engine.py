"""Trials of the engine's faults, which tests inject, and of what was whole before and must stay so."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from .rows_server import LONG
from .served import GOOD, Served
from .trial import Result, Trial, by_tests, trial
from .wire import CHAT, PLAIN

_GROUP: Final = "The engine"
_KEPT: Final = "To keep"
_ENGINE_TESTS: Final = "tests/server/engine/test_embedded_engine.py"


@trial("memory-5000", _KEPT, "memory over 5,000 requests", "flat")
async def memory() -> Result:
    async with Served() as served:
        await served.good()
        bodies: tuple[tuple[str, dict[str, Any]], ...] = (
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
        "held; kept",
        f"{_ENGINE_TESTS}::test_a_step_that_raises_ends_its_requests_and_the_engine_goes_on",
        "tests/server/engine/test_engine_thread.py::test_a_failing_step_ends_its_request_and_the_others_go_on",
    ),
    memory,
    by_tests(
        "poisoned-neighbours",
        _KEPT,
        "the neighbours of a poisoned request get the same tokens",
        "unchanged",
        "tests/server/engine/test_shared_blocks.py::test_bad_logits_hurt_no_sharer_and_leave_no_block_behind",
    ),
    by_tests(
        "cuts",
        _KEPT,
        "stop strings and characters, however tokens cut them",
        "671,443 cuts exact",
        "tests/server/test_detokenizer.py",
    ),
)
"""the trials of this module"""
