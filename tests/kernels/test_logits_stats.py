"""Logits statistics: the known answers, the properties of the formulas, and bad rows."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_kernels import _threads
from entropick_kernels.logits_stats import (
    ALL_MASKED_FLAG,
    NAN_FLAG,
    POSITIVE_INFINITY_FLAG,
    LogitsStats,
    logits_stats,
    numba_impl,
)
from entropick_kernels.logits_stats.reference import (
    logits_entropy,
    logits_stats_reference,
    logits_varentropy,
    surprisal,
)
from entropick_kernels.loops import row_log_z, row_stats

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())
CASES = GOLDEN["01_logits_entropy_varentropy"]["cases"]
TAILS = GOLDEN["02_clarify_reachability"]["cases"]
BOTH = pytest.mark.parametrize("kernels", ["torch", "numba"])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SERVED = pytest.mark.parametrize(
    ("kernels", "dtype"), [("torch", d) for d in DTYPES] + [("numba", d) for d in DTYPES[1:]], ids=str
)


def masked(values: list[float | None]) -> np.ndarray:
    return np.array([-math.inf if v is None else v for v in values])


def head_and_tail(case: dict) -> np.ndarray:
    k, mass, vocabulary = case["head_tokens"], case["tail_mass"], case["vocab"]
    p = np.full(vocabulary, mass / (vocabulary - k))
    p[:k] = (1 - mass) / k
    return np.log(p, out=np.full(vocabulary, -np.inf), where=p > 0)


def assert_matches_reference(
    stats: LogitsStats, logits: torch.Tensor, rtol: float = 1e-4, atol: float = 1e-5
):
    expected = logits_stats_reference(logits)
    for name, value in stats._asdict().items():
        np.testing.assert_allclose(
            value.double().numpy(), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name
        )


@BOTH
@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_known_answers(case, kernels):
    x = masked(case["logits"])
    entropy = logits_entropy(x, case["temperature"])
    assert entropy == pytest.approx(case["entropy_bits"], rel=1e-9, abs=1e-9)
    assert logits_varentropy(x, case["temperature"]) == pytest.approx(
        case["varentropy_bits2"], rel=1e-9, abs=1e-9
    )
    assert 2**entropy == pytest.approx(case["perplexity"], rel=1e-9)
    stats = logits_stats(torch.tensor(x / case["temperature"], dtype=torch.float32)[None], kernels=kernels)
    assert stats.entropy.item() == pytest.approx(case["entropy_bits"], rel=1e-4, abs=1e-5)
    assert stats.varentropy.item() == pytest.approx(case["varentropy_bits2"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", TAILS, ids=lambda c: f"{c['head_tokens']}-{c['tail_mass']}")
@BOTH
def test_known_answers_of_a_leaking_tail(case, kernels):
    x = head_and_tail(case)
    assert logits_entropy(x) == pytest.approx(case["entropy_bits"], rel=1e-9)
    assert logits_varentropy(x) == pytest.approx(case["varentropy_bits2"], rel=1e-9, abs=1e-9)
    stats = logits_stats(torch.tensor(x, dtype=torch.float32)[None], kernels=kernels)
    assert stats.entropy.item() == pytest.approx(case["entropy_bits"], rel=1e-4, abs=1e-5)
    assert stats.varentropy.item() == pytest.approx(case["varentropy_bits2"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 33, 1023, 1024, 4099, 32001])
@SERVED
def test_every_field_matches_the_reference(dtype, vocabulary, kernels):
    g = torch.Generator().manual_seed(vocabulary)
    x = (torch.randn(5, vocabulary, generator=g, dtype=torch.float64) * 4).to(dtype)
    x[1] = 0.0
    x[2, vocabulary // 2] = 1e4
    if vocabulary > 1:
        x[3, 1:] = -math.inf
    x[4, : vocabulary // 2] = -math.inf
    stats = logits_stats(x, kernels=kernels)
    tight = dtype == torch.float64
    assert_matches_reference(stats, x, rtol=1e-9 if tight else 1e-4, atol=1e-9 if tight else 1e-5)
    assert stats.entropy.dtype == (torch.float64 if tight else torch.float32)
    assert stats.flags.dtype == torch.int32
    assert stats.varentropy[1] == 0


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.floats(-1e4, 1e4))
@settings(max_examples=60, deadline=None)
def test_a_constant_and_a_permutation_change_nothing(values, shift):
    x = np.array(values)
    assert logits_entropy(x + shift) == pytest.approx(logits_entropy(x), abs=1e-9, rel=1e-9)
    assert logits_varentropy(x + shift) == pytest.approx(logits_varentropy(x), abs=1e-8, rel=1e-8)
    assert logits_entropy(x[::-1]) == pytest.approx(logits_entropy(x), abs=1e-12)
    assert -1e-12 <= logits_entropy(x) <= math.log2(len(x)) + 1e-9
    stats = logits_stats(torch.tensor([values, values[::-1]]))
    assert stats.entropy[0].item() == pytest.approx(stats.entropy[1].item(), abs=1e-5)
    assert stats.varentropy[0].item() == pytest.approx(stats.varentropy[1].item(), abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("vocabulary", [9, 1000, 32000, 50257])
@SERVED
def test_a_row_does_not_depend_on_its_neighbours(dtype, vocabulary, kernels):
    x = (torch.randn(16, vocabulary, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    x[3, 5] = math.nan
    x[7] = -math.inf
    x[8, 2] = math.inf
    together = logits_stats(x, kernels=kernels)
    for rows in ([0], [15], [2, 9], [4, 6, 1]):
        alone = logits_stats(x[rows].clone(), kernels=kernels)
        for name, value in alone._asdict().items():
            assert torch.equal(value, getattr(together, name)[rows]), name


@BOTH
def test_bad_rows_are_flagged_and_contained(kernels):
    x = torch.zeros(8, 8)
    x[1, 3] = math.nan
    x[2, 3] = math.inf
    x[3] = -math.inf
    x[4, 2], x[4, 3] = math.nan, math.inf
    x[6, 5] = torch.tensor(-4194304, dtype=torch.int32).view(torch.float32)  # a NaN with its sign bit set
    x[7] = -math.inf
    x[7, [4, 6]] = torch.tensor(-4194304, dtype=torch.int32).view(torch.float32)
    stats = logits_stats(x, kernels=kernels)
    expected_flags = [0, NAN_FLAG, POSITIVE_INFINITY_FLAG, ALL_MASKED_FLAG, NAN_FLAG, 0, NAN_FLAG, NAN_FLAG]
    assert stats.flags.tolist() == expected_flags
    assert stats.entropy[[0, 5]].tolist() == [3.0, 3.0]
    for name in ("entropy", "varentropy", "log_z"):
        assert getattr(stats, name)[[1, 2, 4, 6, 7]].isnan().all(), name
    for name in ("entropy", "varentropy", "log_z"):
        assert getattr(stats, name)[3] == 0, name
    expected = logits_stats_reference(x)
    assert expected.flags.tolist() == stats.flags.tolist()
    np.testing.assert_array_equal(np.isnan(expected.entropy), stats.entropy.isnan().numpy())


def measured(x, figures):
    return row_stats(x, figures, np.empty(1024, np.float32))


@pytest.mark.parametrize("measure", [measured, row_log_z])
def test_native_rows_know_their_most_probable_token(measure):
    """The lowest id on ties; of a NaN, with its sign bit or without, its own; 0 of a masked row."""
    x = torch.zeros(9, 5000)
    x[0, [77, 78, 4000]] = 2.0
    x[2] = -1.0
    x[2, 1500], x[2, 3000] = -0.0, 0.0
    x[3, 3] = math.nan
    x[4, 3] = math.inf
    x[5] = -math.inf
    x[6, 2], x[6, 3] = math.nan, math.inf
    negative_nan = torch.tensor(-4194304, dtype=torch.int32).view(torch.float32)
    x[7, 5] = negative_nan
    x[8] = -math.inf
    x[8, [4, 6]] = negative_nan
    found = [measure(row, np.empty(4, np.float32)) for row in x.numpy()]
    assert [index for index, _ in found] == [77, 0, 1500, 3, 3, 0, 2, 5, 4]
    bad = [NAN_FLAG, POSITIVE_INFINITY_FLAG, ALL_MASKED_FLAG, NAN_FLAG, NAN_FLAG, NAN_FLAG]
    assert [flag for _, flag in found] == [0, 0, 0, *bad]


def test_masked_rows_that_are_uniform_have_no_varentropy():
    x = torch.full((1, 3000), -math.inf)
    x[0, ::3] = 5.0
    for kernels in ("torch", "numba"):
        assert logits_stats(x, kernels=kernels).varentropy.item() == 0


def test_several_threads_give_the_numbers_of_one(monkeypatch):
    if _threads.torch_openmp() is None:
        pytest.skip("torch does not run on GNU OpenMP here")
    x = torch.randn(9, 3001, generator=torch.Generator().manual_seed(1))
    serial = logits_stats(x, kernels="numba")
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 3)
    threaded = logits_stats(x, kernels="numba")
    assert all(torch.equal(a, b) for a, b in zip(serial, threaded, strict=True))


def test_the_normaliser_keeps_its_digits_far_from_zero():
    x = torch.full((1, 4096), 30000.0)
    stats = logits_stats(x)
    assert stats.max_logit.item() == 30000.0
    assert stats.log_z.item() == pytest.approx(math.log(4096), rel=1e-6)


def test_surprisal():
    x = np.array([[2.0, 1.0, 0.0, -1.0], [0.0, -math.inf, 0.0, 0.0]])
    np.testing.assert_allclose(
        surprisal(x, np.array([0, 2])), [0.44018969856119533 / math.log(2), math.log2(3)], rtol=1e-12
    )
    assert surprisal(x[1], 1) == math.inf
    assert surprisal(torch.tensor(x[0]), 3) == pytest.approx(3.44018969856119533 / math.log(2))
    with pytest.raises(IndexError):
        surprisal(x[0], 4)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="temperature"):
        logits_entropy([1.0, 2.0], 0.0)
    with pytest.raises(ValueError, match="shape"):
        logits_entropy(3.0)
    with pytest.raises(ValueError, match="shape"):
        logits_stats(torch.zeros(3))
    with pytest.raises(TypeError):
        logits_stats(torch.zeros(3, 3, dtype=torch.int64))


def test_the_input_is_left_alone():
    x = torch.randn(3, 100)
    before = x.clone()
    logits_stats(x)
    assert torch.equal(x, before)
