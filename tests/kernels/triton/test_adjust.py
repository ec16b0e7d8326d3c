"""Adjustments in Triton: the bits of torch's, and a step's signals and draws as the references have them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from entropick_kernels.adjust import add_to_logits, mask_logits, penalise, restore
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.packed import unpack

from ...sampler.adjusted_cases import assert_as_the_references, random_batch


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 1), (3, 33), (5, 1000), (2, 4100)])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_bits_are_torchs(device: torch.device, rows: int, vocabulary: int, transposed: bool) -> None:
    case = random_batch(rows, rows, vocabulary)
    masks, added, seen, factors = case.adjustments
    assert added is not None
    assert seen is not None
    assert factors is not None
    got, want = case.logits.clone().to(device), case.logits.clone().to(device)
    if transposed:
        got = got.T.contiguous().T
    for logits, kernels in ((got, "triton"), (want, "torch")):
        if masks is not None:
            mask_logits(logits, masks, kernels=kernels)
        if len(added.ids):
            add_to_logits(logits, added, kernels=kernels)
    assert torch.equal(got, want)
    measured = want.clone()
    if len(seen.ids):
        before = [penalise(x, seen, factors, kernels=k) for x, k in ((got, "triton"), (want, "torch"))]
        np.testing.assert_allclose(got.cpu(), want.cpu(), rtol=2e-7)
        assert torch.equal(*before)
        restore(got, seen, before[0], kernels="triton")
        assert torch.equal(got, measured)


def test_random_requests_are_as_the_references_say(device: torch.device) -> None:
    """A thousand on a GPU; the interpreter takes seconds a batch, and gets more by ADJUSTED_BATCHES=50."""
    few = int(os.environ.get("ADJUSTED_BATCHES", "2"))
    for number in range(50 if device.type == "cuda" else few):
        case = random_batch(number, 20, 211)
        batch = SampledBatch(case.rows, None, device, kernels="triton")
        columns = StepColumns.of([StepRow(p) for p in case.positions]).to(device)
        logits = case.logits.clone().to(device)
        packed = batch.step(logits, None, None, columns, adjustments=case.adjustments)
        assert_as_the_references(case, unpack(packed, batch.candidates))
