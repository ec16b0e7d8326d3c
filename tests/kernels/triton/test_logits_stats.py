"""Logits statistics in Triton against the float64 reference: accuracy, invariances, strides and bad rows."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from entropick_kernels.logits_stats import LogitsStats, logits_stats
from entropick_kernels.logits_stats.reference import logits_stats_reference

# the interpreter computes in numpy, which warns where a GPU gives inf or NaN in silence
pytestmark = [
    pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
]

CASES = json.loads((Path(__file__).parents[2] / "golden" / "cases.json").read_text())
KNOWN = CASES["01_logits_entropy_varentropy"]["cases"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CHUNK = 4096
"""of the kernel: the lengths here lie around it"""
NAN, INF = math.nan, math.inf


def measure(logits: torch.Tensor, device: torch.device) -> LogitsStats:
    stats = logits_stats(logits.to(device), kernels="triton")
    return LogitsStats(*(field.cpu() for field in stats))


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_accurate(stats: LogitsStats, logits: torch.Tensor) -> None:
    """1e-5 bits of entropy and 1e-5 of the varentropy; what is exact is exact, the rest float32's 1e-6."""
    expected = logits_stats_reference(logits)
    np.testing.assert_allclose(stats.entropy.numpy(), expected.entropy, rtol=0, atol=1e-5)
    np.testing.assert_allclose(stats.varentropy.numpy(), expected.varentropy, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(stats.log_z.numpy(), expected.log_z, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(stats.max_logit.double().numpy(), expected.max_logit)
    np.testing.assert_array_equal(stats.flags.numpy(), expected.flags)


def assert_same_bits(left: LogitsStats, right: LogitsStats) -> None:
    for name, value in left._asdict().items():
        np.testing.assert_array_equal(value.numpy(), getattr(right, name).numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 2, 17, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_every_field_matches_the_reference(vocabulary, dtype, device):
    scales = torch.tensor([[0.1], [1.0], [5.0], [30.0]])
    x = (noise(4, vocabulary, seed=vocabulary) * scales).to(dtype)
    stats = measure(x, device)
    assert_accurate(stats, x)
    assert [field.dtype for field in stats] == [torch.float32] * 4 + [torch.int32]
    assert all(field.shape == (4,) for field in stats)


@pytest.mark.parametrize("case", KNOWN, ids=lambda c: c["name"])
def test_known_answers(case, device):
    x = torch.tensor([[-INF if v is None else v / case["temperature"] for v in case["logits"]]])
    stats = measure(x, device)
    assert stats.entropy.item() == pytest.approx(case["entropy_bits"], rel=1e-5, abs=1e-5)
    assert stats.varentropy.item() == pytest.approx(case["varentropy_bits2"], rel=1e-4, abs=1e-5)


def test_a_far_maximum_costs_no_digits(device):
    # the mass lies close together, at a distance from the maximum: E[d^2] - E[d]^2 cancels
    x = noise(3, 2 * CHUNK + 1, scale=0.003) - 0.3
    x[:, CHUNK + 7] = 0.0
    p = x.softmax(-1)
    naive = ((p * x * x).sum(-1) - (p * x).sum(-1).square()) / math.log(2.0) ** 2
    expected = logits_stats_reference(x).varentropy
    assert (np.abs(naive.double().numpy() / expected - 1.0)).max() > 1e-4
    assert_accurate(measure(x, device), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_chunk_far_below_the_others_counts_for_its_mass(dtype, device):
    x = noise(3, 3 * CHUNK, seed=2)
    for row, order in enumerate(([0.0, -4.0, -9.0], [-9.0, 0.0, -4.0], [-1.0, -120.0, 0.0])):
        x[row] += torch.tensor(order).repeat_interleave(CHUNK)
    x = x.to(dtype)
    assert_accurate(measure(x, device), x)


def test_a_constant_changes_nothing(device):
    x = (noise(1, CHUNK + 100, scale=3.0) * 64).round() / 64
    rows = torch.cat([x, x + 64.0, x - 1024.0])  # exact in float32: the same differences, so the same bits
    stats = measure(rows, device)
    for name in ("entropy", "varentropy", "log_z"):
        assert len(set(getattr(stats, name).tolist())) == 1, name


def test_the_order_of_the_tokens_changes_nothing(device):
    x = noise(1, 2 * CHUNK + 1, scale=3.0, seed=3)
    orders = [torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    stats = measure(torch.cat([x, *(x[:, order] for order in orders)]), device)
    for field in (stats.entropy, stats.varentropy, stats.log_z):
        torch.testing.assert_close(field, field[:1].expand(3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [1000, 1008, CHUNK, CHUNK + 1])
def test_masked_tokens_behind_the_vocabulary_count_for_nothing(vocabulary, device):
    wide = torch.full((2, 2 * CHUNK + 16), -INF)
    wide[:, :vocabulary] = noise(2, vocabulary, scale=3.0, seed=4)
    whole = measure(wide, device)
    view = measure(wide.to(device)[:, :vocabulary], device)
    assert_accurate(whole, wide[:, :vocabulary])
    assert_accurate(view, wide)
    if vocabulary % 16 == 0:  # then both are compiled alike
        assert_same_bits(whole, view)


@pytest.mark.parametrize("vocabulary", [1000, CHUNK + 16, CHUNK + 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_neighbours(dtype, vocabulary, device):
    x = noise(4, vocabulary, scale=4.0, seed=5).to(dtype)
    x[1, 3], x[2] = NAN, -INF
    together = measure(x, device)
    for rows in ([0], [3], [3, 2, 1, 0], [3, 0]):
        picked = LogitsStats(*(field[rows] for field in together))
        assert_same_bits(measure(x[rows].clone(), device), picked)


def test_strides(device):
    x = noise(3, CHUNK + 37, scale=2.0, seed=6)
    padded = torch.full((3, 2, CHUNK + 48), NAN)
    padded[:, 1, 3 : CHUNK + 40] = x
    spread = torch.full((3, 2 * (CHUNK + 37)), NAN)
    spread[:, ::2] = x
    for view in (
        x.t().contiguous().to(device).t(),
        padded.to(device)[:, -1, 3 : CHUNK + 40],
        spread.to(device)[:, ::2],
        x[:1].to(device).expand(3, -1),
    ):
        assert_accurate(measure(view, device), view)


def adversarial(vocabulary: int) -> dict[str, torch.Tensor]:
    last = vocabulary - 1
    base = noise(vocabulary, seed=7)
    rows = {
        name: base.clone() for name in ("nan first", "nan last", "inf", "nan and inf", "inf then nan", "far")
    }
    rows["nan first"][5] = NAN
    rows["nan first"][last] = NAN
    rows["nan last"][last] = NAN
    rows["inf"][[last - 1, last]] = INF
    rows["nan and inf"][[2, last]] = torch.tensor([NAN, INF])
    rows["inf then nan"][[2, last]] = torch.tensor([INF, NAN])
    rows["far"][last] = 60.0
    rows |= {
        name: torch.full((vocabulary,), -INF) for name in ("masked", "one-hot", "two", "masked but a nan")
    }
    rows["one-hot"][last] = -7.0
    rows["two"][[1, last]] = 3.0
    rows["masked but a nan"][last] = torch.tensor(-4194304, dtype=torch.int32).view(torch.float32)
    rows["all nan"] = torch.full((vocabulary,), NAN)
    rows["uniform"] = torch.full((vocabulary,), 2.0)
    rows["large"] = base + 3e4
    rows["spread"] = base * 3e4
    rows["huge"] = base * 1e30
    rows["largest"] = torch.where(base > 0, 3.4e38, -3.4e38)
    return rows


@pytest.mark.parametrize("vocabulary", [1000, 2 * CHUNK + 1])
def test_rows_that_hurt(vocabulary, device):
    rows = adversarial(vocabulary)
    x = torch.stack(list(rows.values()))
    stats = measure(x, device)
    assert_accurate(stats, x)
    at = {name: i for i, name in enumerate(rows)}
    assert stats.varentropy[at["uniform"]] == 0
    assert stats.varentropy[at["two"]] == 0
    assert stats.entropy[at["two"]] == 1
    assert stats.entropy[at["one-hot"]] == 0
    torch_stats = logits_stats(x, kernels="torch")
    for name, value in torch_stats._asdict().items():
        torch.testing.assert_close(
            getattr(stats, name),
            value,
            rtol=1e-5,
            atol=1e-5,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_the_input_is_left_alone_and_no_rows_are_no_work(device):
    x = noise(2, 100)
    given = x.to(device)
    logits_stats(given, kernels="triton")
    assert torch.equal(given.cpu(), x)
    assert all(field.shape == (0,) for field in measure(x[:0], device))


def test_what_it_does_not_serve_is_refused(device):
    with pytest.raises(ValueError, match="float64"):
        logits_stats(torch.zeros(1, 4, dtype=torch.float64, device=device), kernels="triton")


def test_triton_is_imported_at_its_first_use_alone():
    code = "import sys, torch, entropick_kernels.logits_stats as s; s.logits_stats(torch.zeros(1, 4)); "
    code += "assert 'triton' not in sys.modules and s.__name__ + '.triton_impl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
