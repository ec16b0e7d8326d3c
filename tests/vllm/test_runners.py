"""What the embedded engine says vLLM says: under both runners, by each attention backend, on two workers.

Runner V2 and the GPU backends run for true, on the CPU in Triton's interpreter (``interpreted``); of
FlashAttention the library itself is stood in for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entropick_pico import model_path
from entropick_server.engine.torch_engine import TorchEngine
from entropick_server.engine.types import EngineOptions

from .answers import TOKENS, answer

HERE = Path(__file__).resolve().parent
UNI = ("--distributed-executor-backend", "uni")


@pytest.fixture
async def ours() -> AsyncIterator[TorchEngine]:
    engine = TorchEngine(EngineOptions(model=str(model_path())))
    await engine.start()
    yield engine
    await engine.close()


def theirs(kernels: str, arguments: tuple[str, ...], **settings: str) -> tuple[Any, str]:
    """The rows of ``answers.py`` in a process with these settings, and its log."""
    path = os.pathsep.join(filter(None, (str(HERE / "interpreted"), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(
        [sys.executable, str(HERE / "answers.py"), kernels, *arguments],
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
            assert row["signals"] == pytest.approx(expected["signals"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("runner", ["0", "1"], ids=["V1", "V2"])
@pytest.mark.parametrize("backend", ["", "TRITON_ATTN", "FLASH_ATTN"], ids=["CPU_ATTN", "TRITON", "FLASH"])
async def test_a_runner_with_a_backend(ours: TorchEngine, runner: str, backend: str) -> None:
    kernels = "triton" if backend == "TRITON_ATTN" else "auto"
    got, log = theirs(
        kernels, UNI, TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER=runner, INTERPRETED_ATTENTION=backend
    )
    assert ("Using V2 Model Runner" in log) == (runner == "1")
    compare(got, await answer(ours))


async def test_two_workers_of_a_layer(ours: TorchEngine) -> None:
    """Each has half of the heads: agreement is of all of them."""
    got, _ = theirs("auto", ("--tensor-parallel-size", "2"))
    compare(got, await answer(ours))
