"""A part that breaks does not take the server along: a cut channel, a dead worker, a client that leaves."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.torch import load_file, save_file

from entropick_pico import model_path
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import STEP_SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.engine.base import EngineDeadError, EngineError, ModelLoadError
from entropick_server.engine.types import (
    EngineOptions,
    FinishReason,
    Request,
    RequestOutput,
    StepReport,
    Token,
)
from entropick_server.engine.vllm.engine import VllmEngine

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # of vLLM's and torch's making
    pytest.mark.filterwarnings("default"),
]
ALWAYS = {
    "greedy_entropy": 0,
    "clarify_entropy": 64,
    "explore_entropy": 64,
    "explore_varentropy": 0,
    "high_uncertainty_entropy": 64,
}
"""EXPLORE wherever anything is uncertain"""
BRANCHING = PolicyConfig(
    overrides=ALWAYS, branch=BranchConfig(width=3, depth=6, budget=8.0, on=frozenset({Strategy.EXPLORE}))
)


def options(**more: Any) -> EngineOptions:
    return EngineOptions(model=str(model_path()), kv_cache_bytes=1 << 26, **more)


def build(**more: Any) -> VllmEngine:
    return VllmEngine(options(**more), ("--distributed-executor-backend", "uni"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    made = build(max_num_seqs=4)
    await made.start()
    yield made
    await made.close()


async def tokens_of(engine: VllmEngine, request: Request) -> list[Token]:
    tokens: list[Token] = []
    async for output in engine.generate(request):
        if output.error is not None:
            raise EngineError(output.error)
        tokens += output.tokens
    return tokens


async def until(happens: Callable[[], bool], within: float = 10.0) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(within):
        while not happens():
            await asyncio.sleep(0.01)


async def idle(engine: VllmEngine) -> None:
    vllm = engine._workers.llm.output_processor
    await until(lambda: not engine.gauges().running and not vllm.has_unfinished_requests())


async def test_a_cut_channel_costs_nothing_but_a_wait(
    engine: VllmEngine, make_request: Callable[..., Request]
) -> None:
    """Every figure comes by asking; when the channel is mended it is used again."""
    inbox = engine._workers.inbox
    whole = await tokens_of(engine, make_request(max_tokens=12, ignore_eos=True))
    await inbox.close()
    cut = await tokens_of(engine, make_request(max_tokens=12, ignore_eos=True))
    inbox.open()
    mended = await tokens_of(engine, make_request(max_tokens=12, ignore_eos=True))
    assert [t.token_id for t in cut] == [t.token_id for t in whole] == [t.token_id for t in mended]
    for tokens in (cut, mended):
        for token, other in zip(tokens, whole, strict=True):
            figures = other.signals[: len(STEP_SIGNALS)]
            assert token.signals[: len(STEP_SIGNALS)] == pytest.approx(figures, rel=1e-3, abs=1e-4)


async def test_figures_that_cannot_be_had_are_absent(
    engine: VllmEngine, make_request: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is the same without them; one that needs log probabilities ends with an error."""

    async def fails(_: str) -> list[list[bytes]]:
        raise EngineError("no answer")

    inbox = engine._workers.inbox
    whole = await tokens_of(engine, make_request(max_tokens=6))
    await inbox.close()
    monkeypatch.setattr(inbox, "_ask", fails)
    try:
        blind = await tokens_of(engine, make_request(max_tokens=6))
        assert [t.token_id for t in blind] == [t.token_id for t in whole]
        for token in blind:
            assert set(token.signals) == {None}
            assert (token.strategy, token.parameters) == (None, None)
            assert math.isnan(token.logprob)
        with pytest.raises(EngineError, match="log probabilities"):
            await tokens_of(engine, make_request(max_tokens=6, logprobs=0))
        branchless = await tokens_of(engine, make_request(policy=BRANCHING, max_tokens=6))
        assert len(branchless) == 6
    finally:
        inbox.open()
    assert engine.ready


async def test_leaving_aborts_everything_of_a_request(
    engine: VllmEngine, make_request: Callable[..., Request]
) -> None:
    for policy in (PolicyConfig(), BRANCHING):
        request = make_request(policy=policy, max_tokens=500, ignore_eos=True)
        async with aclosing(engine.generate(request)) as outputs:
            async for _ in outputs:
                break
        await idle(engine)
    slow = asyncio.create_task(tokens_of(engine, make_request(policy=BRANCHING, max_tokens=400)))
    await until(lambda: engine.gauges().running > 1)  # branches
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    await idle(engine)
    assert len(await tokens_of(engine, make_request(max_tokens=3))) == 3


async def test_bad_requests_end_alone(engine: VllmEngine, make_request: Callable[..., Request]) -> None:
    bad = PolicyConfig(overrides={"top_p": 7})
    for request, message in (
        (make_request(policy=bad), "overrides.top_p: must be between"),
        (make_request(prompt=()), "empty"),
        (make_request(prompt=(10**6,)), "token ids"),
        (make_request(prompt=(5,) * 2000), "context"),
        (make_request(seed=1 << 70), "64 bits"),
    ):
        with pytest.raises(EngineError, match=message):
            await tokens_of(engine, request)
    assert await tokens_of(engine, make_request())


async def test_a_name_is_used_once_at_a_time(
    engine: VllmEngine, make_request: Callable[..., Request]
) -> None:
    request = make_request(max_tokens=30, ignore_eos=True)
    first = engine.generate(request)
    await anext(first)
    with pytest.raises(EngineError, match="in use"):
        await tokens_of(engine, request)
    await first.aclose()
    # nothing of the cancelled one is left: it begins anew
    again = await tokens_of(engine, request)
    assert [t.token_id for t in again] == [t.token_id for t in await tokens_of(engine, request)]


async def test_more_requests_than_slots_wait(
    engine: VllmEngine, make_request: Callable[..., Request]
) -> None:
    """The engine refuses none of them: how many may wait is decided where requests come in."""
    requests = [make_request(max_tokens=20, ignore_eos=True) for _ in range(12)]
    said = await asyncio.gather(*(tokens_of(engine, request) for request in requests))
    assert [len(tokens) for tokens in said] == [20] * 12


async def test_reports_hold_every_token_and_slots_are_in_range(
    engine: VllmEngine, make_request: Callable[..., Request]
) -> None:
    reports: list[StepReport] = []
    engine.subscribe(reports.append)
    requests = [make_request(max_tokens=10, ignore_eos=True) for _ in range(4)]
    said = await asyncio.gather(*(tokens_of(engine, request) for request in requests))
    await asyncio.sleep(0)
    told: dict[str, list[int]] = {}
    for report in reports:
        for output, slot in zip(report.outputs, report.slots, strict=True):
            assert 0 <= slot < 4
            told.setdefault(output.request_id, []).extend(t.token_id for t in output.tokens)
    assert told == {
        r.request_id: [t.token_id for t in tokens] for r, tokens in zip(requests, said, strict=True)
    }
    queued = [name for report in reports for name, _ in report.queued_seconds]
    assert sorted(queued) == sorted(told)
    ends = [o.finish_reason for report in reports for o in report.outputs if o.finish_reason]
    assert ends == [FinishReason.LENGTH] * 4


async def test_what_vllm_must_not_be_given(tmp_path: Path) -> None:
    for arguments, message in (
        (("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'), "token by token"),
        (("--enable-batch-sharded-sampling",), "rows together"),
        (("--model", "other"), "before the --"),
        (("--no-such-argument",), "refuses the arguments"),
        # the shipped model has six heads
        (("--tensor-parallel-size", "5"), "cannot serve"),
    ):
        made = VllmEngine(options(), arguments)
        with pytest.raises(ModelLoadError, match=message):
            await made.start()
    with pytest.raises(ModelLoadError, match="no such folder"):
        await VllmEngine(EngineOptions(model="/nowhere/model")).start()


async def rest(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def test_closing_ends_open_streams(make_request: Callable[..., Request]) -> None:
    """Streams that decode, roll branches out, wait for a slot or have not begun end with EngineDeadError."""
    made = build(max_num_seqs=4)
    await made.start()
    running = made.generate(make_request(max_tokens=900, ignore_eos=True))
    await anext(running)
    idle_stream = made.generate(make_request(max_tokens=900, ignore_eos=True))
    await anext(idle_stream)
    asked = [make_request(policy=BRANCHING, max_tokens=900, ignore_eos=True) for _ in range(2)]
    asked += [make_request(max_tokens=900, ignore_eos=True) for _ in range(6)]
    waiting = [asyncio.create_task(tokens_of(made, request)) for request in asked]
    reader = asyncio.create_task(rest(running))
    await until(lambda: made.gauges().waiting > 0)
    late = asyncio.create_task(tokens_of(made, make_request(max_tokens=900, ignore_eos=True)))
    await asyncio.sleep(0)  # it is on its way into vLLM
    async with asyncio.timeout(60):
        await made.close()
        ends = await asyncio.gather(reader, *waiting, late, return_exceptions=True)
        assert [type(end) for end in ends] == [EngineDeadError] * len(ends)
        assert {str(end) for end in ends} == {"the engine was stopped"}
        with pytest.raises(EngineDeadError, match="stopped"):
            await rest(idle_stream)
        with pytest.raises(EngineDeadError, match="not running"):
            await tokens_of(made, make_request())
    await made.close()
    assert made.gauges().running == 0


async def test_a_worker_that_dies(make_request: Callable[..., Request]) -> None:
    """The open stream ends with an error, the engine says that it is not ready, and closes in peace."""
    before = set(children(os.getpid()))
    made = build()
    await made.start()
    try:
        stream = made.generate(make_request(max_tokens=900, ignore_eos=True))
        await anext(stream)
        names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(os.getpid())}
        (worker,) = [
            pid
            for pid, name in names.items()
            if pid not in before and b"resource_tracker" not in name and b"templates" not in name
        ]
        os.kill(worker, 9)
        with pytest.raises(EngineDeadError, match="died"):
            await asyncio.wait_for(rest(stream), 30)
        assert not made.ready
        with pytest.raises(EngineDeadError):
            await tokens_of(made, make_request())
        assert made.gauges().running == 0
    finally:
        await made.close()


async def test_a_model_of_nonsense_does_not_start(tmp_path: Path) -> None:
    """Logits that are not finite are found at the start, not by the first client."""
    folder = tmp_path / "nan"
    shutil.copytree(model_path(), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(math.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    engine = VllmEngine(
        EngineOptions(model=str(folder), calibrate=False, use_profile=False),
        ("--distributed-executor-backend", "uni"),
    )
    with pytest.raises(ModelLoadError, match=r"was loaded but does not run: .*finite"):
        await engine.start()
    assert not engine.ready
