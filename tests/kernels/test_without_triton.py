"""A machine without Triton, and one whose Triton nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
{before}
import torch
import entropick_kernels
from entropick_kernels.attention_stats import decode_attention
from entropick_kernels.logits_stats import logits_stats
from entropick_kernels.sample import draw
x, blocks = torch.randn(2, 50), torch.randn(2, 1, 4, 8)
ones, whole = torch.ones(2), torch.ones(2, dtype=torch.int32)
print(logits_stats(x).flags.tolist(), draw(x, ones, whole, ones, ones, torch.zeros(2, 1)).shape)
out, _ = decode_attention(torch.randn(2, 2, 8), blocks, blocks, whole.view(2, 1), whole, scale=1.0)
print(out.shape)
print("triton" in sys.modules and sys.modules["triton"] is not None)
try:
    logits_stats(x, kernels="triton")
except ValueError as error:
    print(error)
"""


def lines(before: str, **environment: str) -> list[str]:
    """What the script prints in a process of its own."""
    paths = ":".join(str(ROOT / name) for name in ("kernels", "sampler", "server", "pico"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env={"PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.splitlines()


def test_everything_works_and_a_demand_is_refused() -> None:
    # TRITON_INTERPRET: without it the CPU alone would be reason enough to refuse
    got = lines("sys.modules['triton'] = None", TRITON_INTERPRET="1")
    assert got[:3] == ["[0, 0] torch.Size([2, 1])", "torch.Size([2, 2, 8])", "False"]
    assert got[3] == "the Triton kernels need triton and CUDA tensors (or TRITON_INTERPRET=1)"


def test_tensors_on_the_cpu_do_not_import_it() -> None:
    assert lines("")[2] == "False"
