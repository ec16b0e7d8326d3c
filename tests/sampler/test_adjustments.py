"""Masks, biases and penalties in the sampling step: the float64 references against each implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from entropick_kernels.adjust import words_of
from entropick_sampler.adjustments import Adjustments, Entries, Masks
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.packed import TokenRow, unpack
from entropick_sampler.params import PolicyConfig, SamplingParams

from .adjusted_cases import assert_as_the_references, random_batch

FIXED = PolicyConfig("fixed")
V = 211


def step(
    logits: torch.Tensor,
    rows: list[tuple[SamplingParams, PolicyConfig]],
    adjustments: Adjustments | None,
    positions: list[int] | None = None,
    kernels: Any = None,
) -> list[TokenRow]:
    batch = SampledBatch(rows, None, kernels=kernels)
    columns = StepColumns.of([StepRow(p) for p in positions or [0] * len(rows)])
    return unpack(batch.step(logits, None, None, columns, adjustments=adjustments), batch.candidates)


@pytest.mark.parametrize(
    ("kernels", "dtype"), [("numba", torch.float32), ("torch", torch.float32), ("torch", torch.float64)]
)
def test_a_thousand_requests_are_as_the_references_say(kernels: str, dtype: torch.dtype) -> None:
    for number in range(50):
        case = random_batch(number, 20, V)
        logits = case.logits.to(dtype)
        got = step(logits.clone(), case.rows, case.adjustments, case.positions, kernels)
        assert_as_the_references(case, got)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_a_row_alone_is_the_same_row_in_a_batch(kernels: str) -> None:
    case = random_batch(7, 12, V)
    together = step(case.logits.clone(), case.rows, case.adjustments, case.positions, kernels)
    for i in range(12):
        alone = step(
            case.logits[i : i + 1].clone(),
            [case.rows[i]],
            row_of(case.adjustments, i),
            [case.positions[i]],
            kernels,
        )[0]
        assert alone._replace(candidates=()) == together[i]._replace(candidates=())
        assert alone.candidates == together[i].candidates


def row_of(adjustments: Adjustments, i: int) -> Adjustments:
    """The adjustments of one row of a batch."""
    masks, added, seen, factors = adjustments
    assert factors is not None
    mine = None
    if masks is not None and i in masks.rows:
        mine = Masks(np.array([0]), masks.words[masks.rows == i])
    entries = []
    for of in (added, seen):
        assert of is not None
        lo, hi = of.starts[i], of.starts[i + 1]
        entries.append(Entries(np.array([0, hi - lo]), of.ids[lo:hi], of.values[lo:hi]))
    return Adjustments(mine, *entries, factors[i : i + 1])


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_what_is_measured_stays_in_the_logits_and_penalties_do_not(kernels: str) -> None:
    case = random_batch(3, 8, V)
    logits, measured = case.logits.clone(), case.logits.clone()
    step(logits, case.rows, case.adjustments, case.positions, kernels)
    without = case.adjustments._replace(seen=None, factors=None)
    step(measured, case.rows, without, case.positions, kernels)
    assert torch.equal(logits, measured)
    assert not torch.equal(logits, case.logits)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("policy", [FIXED, PolicyConfig(preset="seed"), PolicyConfig("target_entropy")])
def test_the_only_allowed_token_is_drawn_with_entropy_zero(kernels: str, policy: PolicyConfig) -> None:
    """Even where penalties and biases speak against it, and the model holds it for impossible."""
    logits = torch.randn(2, V) * 4
    logits[0, 5] = -300.0
    adjustments = Adjustments(
        Masks(np.array([0]), words_of([5], V)[None]),
        Entries(np.array([0, 1, 1]), np.array([5]), np.array([-100.0])),
        Entries(np.array([0, 1, 1]), np.array([5]), np.array([50.0])),
        np.array([[2.0, 2.0, 100.0], [0, 0, 1]]),
    )
    assert adjustments.only_choices(V) == {0}
    got = step(logits, [(SamplingParams(seed=1), policy)] * 2, adjustments, kernels=kernels)
    assert got[0].token == 5
    assert got[0].signals[:4] == (0.0, 0.0, *got[0].signals[2:4])
    assert got[0].logprob == 0.0
    assert got[0].flags == got[1].flags == 0


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_a_row_without_an_allowed_token_is_flagged_and_touches_no_other(kernels: str) -> None:
    logits = torch.randn(2, V)
    rows = [(SamplingParams(seed=1), FIXED)] * 2
    (_, plain) = step(logits.clone(), rows, None, kernels=kernels)
    seen = Entries(np.array([0, 2, 2]), np.array([0, 1]), np.array([1.0, 2.0]))
    adjustments = Adjustments(
        Masks(np.array([0]), np.zeros((1, 7), np.int32)), None, seen, np.array([[1.0, 1, 2], [0, 0, 1]])
    )
    got = step(logits, rows, adjustments, kernels=kernels)
    assert [row.flags for row in got] == [4, 0]
    assert got[1] == plain
    assert logits[0].max() == -math.inf


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_greedy_takes_the_most_probable_token_after_penalties(kernels: str) -> None:
    logits = torch.zeros(1, V)
    logits[0, 3], logits[0, 8] = 2.0, 1.5
    seen = Entries(np.array([0, 1]), np.array([3]), np.array([1.0]))
    for factors, token in (([0.4, 0, 1], 3), ([0.6, 0, 1], 8), ([0, 0.6, 1], 8), ([0, 0, 1.5], 8)):
        adjustments = Adjustments(seen=seen, factors=np.array([factors]))
        rows = [(SamplingParams(temperature=0.0), FIXED)]
        (got,) = step(logits, rows, adjustments, kernels=kernels)
        assert got.token == token
        # the log probability is that of the measured distribution
        assert got.logprob == pytest.approx(float(logits.log_softmax(-1)[0, token]), abs=1e-6)


def test_adjustments_that_do_not_fit_are_refused() -> None:
    logits, rows = torch.zeros(2, 40), [(SamplingParams(), FIXED)] * 2
    words = words_of([1], 40)[None]
    entries = Entries(np.array([0, 1, 1]), np.array([40]), np.array([1.0]))
    bad = (
        Adjustments(Masks(np.array([2]), words)),
        Adjustments(Masks(np.array([0, 1]), words)),
        Adjustments(Masks(np.array([0]), words.astype(np.int64))),  # type: ignore[arg-type]
        Adjustments(added=entries),
        Adjustments(added=Entries(np.array([0, 1]), np.array([1]), np.array([1.0]))),
        Adjustments(seen=entries._replace(ids=np.array([1]))),
    )
    for adjustments in bad:
        with pytest.raises(ValueError, match=r"mask|entries|penalties"):
            step(logits, rows, adjustments)
    with pytest.raises(ValueError, match="contiguous"):
        step(torch.zeros(40, 2).T, rows, Adjustments(Masks(np.array([0]), words)))
