"""Token costs of the engine on the Triton kernels, in the interpreter, beside torch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "token_costs_of.py"


def told(kernels: str, **environment: str) -> dict[str, Any]:
    given = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kernels], env=given, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_engine_tells_the_same_costs_on_triton() -> None:
    pytest.importorskip("triton")
    torch, triton = told("torch"), told("triton", TRITON_INTERPRET="1")
    assert torch["tokens"] == triton["tokens"]
    known = 0
    for one, other in zip(torch["costs"], triton["costs"], strict=True):
        wanted, got = (np.array(costs, dtype=float) for costs in (one, other))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        known += int(np.isfinite(wanted).sum())
    assert known
