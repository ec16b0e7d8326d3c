"""Prefill chunks, too few blocks, and calibration: vLLM says the same as the embedded engine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from entropick_pico import model_path
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.profile import PROFILE_FILE
from entropick_sampler.signals import SIGNAL_NAMES, STEP_SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.calibration import calibrate_first
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, Request, StepReport, Token
from entropick_server.engine.vllm.engine import VllmEngine

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM's and torch's making
UNI = ("--distributed-executor-backend", "uni")
COST = SIGNAL_NAMES.index("token_cost")


async def tokens_of(engine: VllmEngine | EmbeddedEngine, request: Request) -> list[Token]:
    tokens: list[Token] = []
    async for output in engine.generate(request):
        assert output.error is None
        tokens += output.tokens
    return tokens


async def test_prefill_chunks_and_preemption_change_nothing(make_request: Callable[..., Request]) -> None:
    """64 tokens a step for prompts of hundreds, and 12 blocks of 128 for 8 requests that grow to 500."""
    words = tuple(range(20, 1600, 7))
    policies = (
        PolicyConfig(preset="calibrated", genuineness=True),
        PolicyConfig(preset="seed", genuineness="scores"),
        PolicyConfig(
            preset="calibrated",
            branch=BranchConfig(width=3, depth=4, on=frozenset({Strategy.EXPLORE, Strategy.ADAPTIVE})),
            genuineness="seed",
        ),
        PolicyConfig("mirostat", overrides={"mirostat_tau": 3.0}),
    )
    requests = [
        make_request(
            (1, *words[i : i + 100 + 12 * i]), policies[i % 4], seed=i, max_tokens=250, ignore_eos=True
        )
        for i in range(8)
    ]
    ours = EmbeddedEngine(EngineOptions(model=str(model_path())))
    await ours.start()
    try:
        wanted = await asyncio.gather(*(tokens_of(ours, request) for request in requests))
    finally:
        await ours.close()
    tight = ("--max-num-batched-tokens", "64", "--num-gpu-blocks-override", "12")
    theirs = VllmEngine(EngineOptions(model=str(model_path()), max_num_seqs=8), (*UNI, *tight))
    reports: list[StepReport] = []
    await theirs.start()
    theirs.subscribe(reports.append)
    try:
        got = await asyncio.gather(*(tokens_of(theirs, request) for request in requests))
    finally:
        await theirs.close()
    assert sum(len(report.preempted) for report in reports)
    for number, (mine, its) in enumerate(zip(wanted, got, strict=True)):
        known = [token.signals[COST] is not None for token in its]
        assert known == ([False, *[True] * (len(its) - 1)] if number % 2 == 0 else [False] * len(its))
        # a rounding may once decide a draw, or where branches open, among two thousand tokens
        alike = next(
            (i for i, (a, b) in enumerate(zip(mine, its, strict=True)) if a.token_id != b.token_id), len(mine)
        )
        assert alike > 40
        for a, b in zip(mine[:alike], its[:alike], strict=True):
            assert (a.strategy, a.forced) == (b.strategy, b.forced)
            figures = b.signals[: len(STEP_SIGNALS)]
            assert a.signals[: len(STEP_SIGNALS)] == pytest.approx(figures, rel=1e-3, abs=1e-3)
            # genuineness and token costs: each step counted once, every key by its own surprisal
            windows = [np.array(t.signals[len(STEP_SIGNALS) :], dtype=float) for t in (a, b)]
            np.testing.assert_allclose(*windows, rtol=1e-4, atol=1e-4)
            assert a.parameters is not None
            assert b.parameters is not None
            assert a.parameters.min_p == pytest.approx(b.parameters.min_p, rel=1e-2, abs=1e-4)
    same = sum([t.token_id for t in a] == [t.token_id for t in b] for a, b in zip(wanted, got, strict=True))
    assert same >= 6


async def test_a_model_without_a_profile_is_calibrated(
    make_request: Callable[..., Request], tmp_path: Path
) -> None:
    """Both engines fit nearly the same profile, it is kept, and the workers decide by it at once."""
    folder = tmp_path / "bare"
    shutil.copytree(model_path(), folder)
    (folder / PROFILE_FILE).unlink()
    options = EngineOptions(model=str(folder), monitored_layers=(0, 3))
    ours = EmbeddedEngine(options, calibrate_first, tmp_path / "ours")
    await ours.start()
    theirs = VllmEngine(options, UNI, calibrate_first, tmp_path / "theirs")
    await theirs.start()
    try:
        a, b = ours.profile, theirs.profile
        assert a is not None
        assert b is not None
        assert b.layers == (0, 3)
        assert b.thresholds == pytest.approx(a.thresholds, rel=0.05, abs=1e-2)
        assert a.genuineness is not None
        assert b.genuineness is not None
        mine, its = asdict(a.genuineness), asdict(b.genuineness)
        assert its.pop("form") == mine.pop("form")
        assert its == pytest.approx(mine, rel=0.05, abs=1e-2)
        assert len(list((tmp_path / "theirs").iterdir())) == 1
        request = make_request(policy=PolicyConfig(preset="calibrated"), max_tokens=20, ignore_eos=True)
        same = await tokens_of(theirs, request)
        assert {t.strategy for t in same} <= set(Strategy)
        other = replace(request, request_id="other")
        assert [t.token_id for t in await tokens_of(theirs, other)] == [t.token_id for t in same]
    finally:
        await theirs.close()
        await ours.close()
