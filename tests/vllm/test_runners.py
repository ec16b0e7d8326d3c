"""vLLM says the same as the embedded engine: under both runners, by each attention backend, on two workers.

Runner V2 and the GPU backends run for true, on the CPU in Triton's interpreter (``interpreted``); of
FlashAttention the library itself is stood in for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entropick_sampler.signals import SIGNAL_NAMES, STEP_SIGNALS
from entropick_server.engine.embedded.engine import EmbeddedEngine

from .answers import TOKENS, answer, options

HERE = Path(__file__).resolve().parent
UNI = ("--distributed-executor-backend", "uni")


async def ours(layers: str = "") -> Any:
    """The rows of the embedded engine."""
    engine = EmbeddedEngine(options("auto", layers))
    await engine.start()
    try:
        return await answer(engine)
    finally:
        await engine.close()


def theirs(arguments: tuple[str, ...], kernels: str = "auto", layers: str = "", **settings: str) -> Any:
    """The rows of ``answers.py`` in a process with these settings, and its log."""
    path = os.pathsep.join(filter(None, (str(HERE / "interpreted"), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(
        [sys.executable, str(HERE / "answers.py"), kernels, layers, *arguments],
        env={**os.environ, "PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "INFO", **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1]), ran.stdout + ran.stderr


def compare(got: Any, wanted: Any) -> None:
    assert [len(rows) for rows in got] == [TOKENS] * len(wanted)
    for one, other in zip(got, wanted, strict=True):
        for row, expected in zip(one, other, strict=True):
            assert (row["id"], row["strategy"]) == (expected["id"], expected["strategy"])
            signals = [np.array(of_row["signals"], dtype=float) for of_row in (row, expected)]
            of_step, of_window = zip(*(np.split(x, [len(STEP_SIGNALS)]) for x in signals), strict=True)
            np.testing.assert_allclose(*of_step, rtol=1e-3, atol=1e-3)
            # genuineness and token costs
            np.testing.assert_allclose(*of_window, rtol=1e-4, atol=1e-4)
    costs = [rows[-1]["signals"][SIGNAL_NAMES.index("token_cost")] for rows in got]
    assert [cost is not None for cost in costs] == [False, True, True]


V1, V2 = ({"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": v2} for v2 in "01")


@pytest.mark.parametrize(
    ("runner", "backend", "kernels"),
    [
        (V1, "TRITON_ATTN", "auto"),
        (V2, "TRITON_ATTN", "triton"),
        (V2, "FLASH_ATTN", "auto"),
        (V2, "CPU_ATTN", "auto"),
    ],
    ids=["V1-TRITON", "V2-TRITON-kernels", "V2-FLASH", "V2-CPU"],
)
async def test_a_runner_with_a_backend(runner: dict[str, str], backend: str, kernels: str) -> None:
    got, log = theirs(UNI, kernels, INTERPRETED_ATTENTION=backend, **runner)
    assert ("Using V2 Model Runner" in log) == (runner is V2)
    compare(got, await ours())


async def test_two_workers_of_a_layer() -> None:
    """Each has half of the heads: agreement is of all of them."""
    got, log = theirs(("--tensor-parallel-size", "2"))
    assert "not measured" not in log
    compare(got, await ours())


async def test_two_stages() -> None:
    """The last one draws: what it monitors is measured."""
    got, log = theirs(("--pipeline-parallel-size", "2"), layers="2,3", **V2)
    assert "not measured" not in log
    compare(got, await ours("2,3"))


async def test_layers_of_another_stage_are_named() -> None:
    """Signals of layers that the drawing worker does not see are absent, and the log says so."""
    got, log = theirs(("--pipeline-parallel-size", "2"), layers="0,3", **V2)
    assert "the attention of layers [0] is not measured" in log
    attention = [column for column, signal in enumerate(STEP_SIGNALS) if signal.group == "attention"]
    for rows, others in zip(got, await ours("0,3"), strict=True):
        # what is drawn may be another token from here on
        assert rows[0]["signals"][:2] == pytest.approx(others[0]["signals"][:2], rel=1e-3)
        assert all(row["signals"][column] is None for row in rows for column in attention)
