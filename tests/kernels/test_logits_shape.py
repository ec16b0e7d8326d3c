"""The shape of distributions: known answers, the float64 reference, masks, and rows that do not touch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropick_kernels.logits_shape import log_temperature, logits_spread, prefix_depth
from entropick_kernels.logits_shape.reference import (
    logits_spread_reference,
    prefix_depth_reference,
    temperature_reference,
)
from entropick_kernels.logits_stats.reference import logits_entropy
from entropick_kernels.loops import row_log_temperature, row_prefix_depth, row_spread

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())["13_dslider_and_peers"]
LOW, HIGH = 0.01, 5.0


def rows_of(seed: int, vocabulary: int, width: float) -> Tensor:
    """Four rows: plain, half masked, with many ties, and with one token far above the others."""
    x = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed)) * width
    x[1, : vocabulary // 2] = -math.inf
    x[2] = x[2].round()
    x[3, vocabulary // 3] += 10
    return x


def column(value: float, rows: int = 4) -> Tensor:
    return torch.full((rows,), value, dtype=torch.float64)


def temperatures(x: Tensor, entropy: float) -> Tensor:
    n = len(x)
    return log_temperature(x, column(entropy, n), column(math.log(LOW), n), column(math.log(HIGH), n)).exp()


SEEDS = st.integers(0, 10_000)
SIZES = st.sampled_from((4, 7, 100, 3000))
WIDTHS = st.sampled_from((0.1, 1.0, 3.0, 10.0))


def test_known_answers() -> None:
    tuned, sigma = GOLDEN["temp_tune"], GOLDEN["top_n_sigma"]
    bits = tuned["target_entropy_nats"] / math.log(2)
    assert temperature_reference(tuned["logits"], bits, LOW, HIGH) == pytest.approx(tuned["T"], rel=1e-9)
    assert logits_spread_reference(sigma["logits"]).deviation == pytest.approx(
        sigma["sigma_population"], rel=1e-9
    )
    assert float(temperatures(torch.tensor([tuned["logits"]]), bits)) == pytest.approx(tuned["T"], rel=1e-5)
    x = np.array(sigma["logits"], np.float32)
    assert row_spread(x, x.max()) == pytest.approx((4, sigma["sigma_population"]), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, vocabulary=SIZES, width=WIDTHS)
def test_spread(seed: int, vocabulary: int, width: float) -> None:
    x = rows_of(seed, vocabulary, width)
    want = logits_spread_reference(x)
    got = logits_spread(x)
    np.testing.assert_array_equal(got.tokens.numpy(), want.tokens)
    np.testing.assert_allclose(got.deviation.numpy(), want.deviation, rtol=1e-9, atol=1e-12)
    native = np.array([row_spread(row.numpy(), row.max().numpy()[()]) for row in x])
    np.testing.assert_array_equal(native[:, 0], want.tokens)
    np.testing.assert_allclose(native[:, 1], want.deviation, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, vocabulary=SIZES, width=WIDTHS, entropy=st.floats(0.05, 9.0))
def test_the_tempered_distribution_has_the_entropy(
    seed: int, vocabulary: int, width: float, entropy: float
) -> None:
    x = rows_of(seed, vocabulary, width)
    tensors = temperatures(x, entropy).tolist()
    for row, tensor in zip(x, tensors, strict=True):
        want = temperature_reference(row, entropy, LOW, HIGH)
        reached = float(logits_entropy(row, want))
        native = math.exp(
            row_log_temperature(row.numpy(), row.max().numpy()[()], entropy, math.log(LOW), math.log(HIGH))
        )
        for got in (native, tensor):
            # where the entropy hardly rises with it the temperature is not to be known any better
            assert float(logits_entropy(row, got)) == pytest.approx(reached, abs=1e-5)
            assert LOW * (1 - 1e-6) <= got <= HIGH * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    vocabulary=st.sampled_from((4, 7, 100, 300)),
    width=WIDTHS,
    share=st.sampled_from((0.0, 0.1, 0.4, 0.8, 0.97, 1.0)),
)
def test_prefix_depth(seed: int, vocabulary: int, width: float, share: float) -> None:
    x = rows_of(seed, vocabulary, width)
    tensors = prefix_depth(x, column(share)).tolist()
    scratch = np.empty(vocabulary, np.float32)
    for row, tensor in zip(x, tensors, strict=True):
        want = min(prefix_depth_reference(row, share), 87.0)  # deeper weights are 0 in float32
        native = row_prefix_depth(row.numpy(), row.max().numpy()[()], share, scratch)
        assert min(tensor, 87.0) == pytest.approx(want, abs=1e-5)
        assert min(native, 87.0) == pytest.approx(want, abs=0.4 if want > 80 else 1e-5)


def test_a_row_is_bit_equal_alone_and_in_a_batch_and_a_shift_changes_nothing() -> None:
    x = torch.cat([rows_of(seed, 40_000, 2.0) for seed in range(4)])
    n = len(x)
    together = (*logits_spread(x), temperatures(x, 3.0), prefix_depth(x, column(0.4, n)))
    for i in range(n):
        row = x[i : i + 1]
        alone = (*logits_spread(row), temperatures(row, 3.0), prefix_depth(row, column(0.4, 1)))
        assert [float(a) for a in alone] == [float(t[i]) for t in together]
    exact = rows_of(1, 3000, 2.0).double()
    for a, b in zip(logits_spread(exact), logits_spread(exact + 100), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        prefix_depth(exact, column(0.4)), prefix_depth(exact + 100, column(0.4)), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(temperatures(exact, 3.0), temperatures(exact + 100, 3.0), rtol=1e-9, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    x = rows_of(3, 500, 3.0).bfloat16()
    torch.testing.assert_close(temperatures(x, 2.0), temperatures(x.float(), 2.0), rtol=0, atol=0)
    assert float(logits_entropy(x[0].float(), float(temperatures(x, 2.0)[0]))) == pytest.approx(2.0, abs=1e-5)
