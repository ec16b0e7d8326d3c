"""The sampling step on Triton kernels: the tokens of the torch form, and no kernel that no row needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from entropick_kernels.sample import triton_impl
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.one_formula import ONE_FORMULA
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.step import SamplerRows, sample_step

FIXED = PolicyConfig(policy="fixed")
SEED = PolicyConfig(preset="seed")
GREEDY = SamplingParams(temperature=0.0)
Rows = list[tuple[SamplingParams, PolicyConfig]]


class Recorded:
    """A Triton kernel that notes its launches."""

    def __init__(self, kernel: Any, name: str, launched: list[str]) -> None:
        self._kernel, self._name, self._launched = kernel, name, launched

    def __getitem__(self, grid: Any) -> Callable[..., object]:
        self._launched.append(self._name)
        launch: Callable[..., object] = self._kernel[grid]
        return launch


@pytest.mark.parametrize(
    ("rows", "kernels"),
    [
        ([(SamplingParams(seed=1, top_k=40, top_p=0.9), FIXED)] * 2 + [(GREEDY, SEED)], ["_draw_short"]),
        ([(SamplingParams(seed=1), FIXED)] * 2 + [(GREEDY, FIXED)], ["draw_any"]),
        ([(SamplingParams(seed=i), SEED) for i in range(3)], ["_draw_short", "draw_any"]),
        (
            [(SamplingParams(seed=5), PolicyConfig(preset="seed", branch=BranchConfig(width=3)))] * 3,
            ["_draw_short", "draw_any"],
        ),
        ([(SamplingParams(seed=6), PolicyConfig(policy)) for policy in [*ONE_FORMULA][:3]], ["draw_any"]),
        ([(SamplingParams(seed=7), PolicyConfig(policy)) for policy in [*ONE_FORMULA][3:]], ["draw_any"]),
    ],
)
def test_tokens_are_torchs_and_only_the_kernels_that_rows_need_run(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, rows: Rows, kernels: list[str]
) -> None:
    launched: list[str] = []
    for name in ("_draw_short", "draw_any"):
        monkeypatch.setattr(triton_impl, name, Recorded(getattr(triton_impl, name), name, launched))
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(3, 1000, generator=generator) * 3).to(device)
    attention = torch.rand(3, 7, generator=generator).to(device)
    resident = SamplerRows.build(rows, None, device, streams=[0, 1, 1 << 16])
    columns = StepColumns.of([StepRow(2), StepRow(0, forced=7), StepRow(9, clarify=3)]).to(device)
    got, want = (
        sample_step(logits, attention, None, resident, columns, kernels) for kernels in ("triton", "torch")
    )
    assert launched == kernels
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.decision.insert_clarify, want.decision.insert_clarify)
    for name in ("temperature", "min_p"):
        torch.testing.assert_close(
            getattr(got.decision, name), getattr(want.decision, name), rtol=1e-5, atol=1e-6
        )
