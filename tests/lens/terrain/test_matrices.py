import math

import pytest
import torch

from entropick_lens.terrain.lanczos import estimated_spectrum, spectral_nodes
from entropick_lens.terrain.matrices import (
    GAUSSIAN_BELOW_TENTH,
    GAUSSIAN_HOYER,
    matrix_spectrum,
    singular_values,
    sparsity,
)
from entropick_lens.terrain.norm_scales import norm_scale


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_spectrum_of_known_answers(golden) -> None:
    case = golden["svd"]
    w = torch.tensor(case["W"], dtype=torch.float64)
    found = matrix_spectrum(w)
    assert found.stable_rank == pytest.approx(case["stable_rank"], rel=1e-9)
    assert found.participation_ratio == pytest.approx(case["pr_of_singvals"], rel=1e-9)
    assert found.active_share == pytest.approx(case["active_frac_gt_1pct"], rel=1e-9)
    assert found.rank90 == case["rank_90_of_nuclear"]
    assert found.condition == pytest.approx(case["condition"], rel=1e-9)
    assert sparsity(w).below["0.1"] == pytest.approx(case["frac_abs_below_0p1"], rel=1e-9)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (7, 7)])
def test_singular_values_through_the_gram_matrix(shape: tuple[int, int]) -> None:
    w = noise(*shape)
    torch.testing.assert_close(singular_values(w), torch.linalg.svdvals(w.double()), rtol=1e-7, atol=1e-7)


def test_planted_ranks() -> None:
    outer = torch.outer(noise(40), noise(60))
    found = matrix_spectrum(outer)
    assert found.stable_rank == pytest.approx(1.0, abs=1e-6)
    assert found.participation_ratio == pytest.approx(1.0, abs=1e-4)
    assert (found.rank90, found.size) == (1, 40)
    square = matrix_spectrum(torch.linalg.qr(noise(20, 20)).Q)
    assert square.stable_rank == pytest.approx(20, rel=1e-5)
    assert (square.rank90, square.active_share) == (18, 1.0)
    with pytest.raises(ValueError, match="zeros"):
        matrix_spectrum(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="zeros"):
        estimated_spectrum(torch.zeros(3, 4))


def test_quick_estimates_are_near_the_exact_figures() -> None:
    """8 probes, 60 steps: PR within 7 %, rank90 1 % (at least 2), active share .06, stable rank exact."""
    for seed, decay in ((0, 0.0), (1, 3.0), (2, 6.0)):
        w = noise(512, 1024, seed=seed) * torch.exp(-decay * torch.arange(512) / 512).unsqueeze(1)
        exact, quick = matrix_spectrum(w), estimated_spectrum(w)
        assert quick.estimated
        assert not exact.estimated
        assert quick.condition is None
        assert quick.stable_rank == pytest.approx(exact.stable_rank, rel=1e-4)
        assert quick.frobenius == pytest.approx(exact.frobenius, rel=1e-6)
        assert quick.participation_ratio == pytest.approx(exact.participation_ratio, rel=0.07)
        assert quick.active_share == pytest.approx(exact.active_share, abs=0.06)
        assert quick.rank90 == pytest.approx(exact.rank90, rel=0.01, abs=2)


def test_quadrature_nodes_carry_the_number_of_singular_values() -> None:
    w = noise(30, 64)
    nodes, weights = spectral_nodes(w, probes=4, steps=200)
    assert weights.sum(1).tolist() == pytest.approx([30.0] * 4)
    # as many steps as dimensions: the trace is exact for sign vectors up to the off-diagonal part
    assert float((nodes * weights).sum(1).mean()) == pytest.approx(float((w.double() ** 2).sum()), rel=0.1)
    assert float(nodes.max().sqrt()) == pytest.approx(float(torch.linalg.svdvals(w)[0]), rel=1e-5)


def test_a_rank_one_matrix_ends_the_krylov_space_early() -> None:
    found = estimated_spectrum(torch.outer(noise(40), noise(60)).double())
    assert found.stable_rank == pytest.approx(1.0, rel=1e-6)
    assert math.isfinite(found.participation_ratio)


def test_the_absolute_shares_are_a_gaussian_s_scale() -> None:
    """A share of 93.7 % below 0.1 is a deviation of .054, not a sparse matrix: erf(.1 / (sd sqrt 2))."""
    assert math.erf(0.1 / (0.0538 * math.sqrt(2))) == pytest.approx(0.937, abs=1e-3)
    w = noise(512, 512) * 0.0538
    assert sparsity(w).below["0.1"] == pytest.approx(0.937, abs=2e-3)


def test_scale_free_sparsity_does_not_change_with_the_scale() -> None:
    w = noise(400, 500)
    found, larger = sparsity(w), sparsity(w * 8)
    assert found.below_tenth_rms == pytest.approx(GAUSSIAN_BELOW_TENTH, abs=2e-3)
    assert pytest.approx(0.0797, abs=5e-5) == GAUSSIAN_BELOW_TENTH
    assert found.hoyer == pytest.approx(GAUSSIAN_HOYER, abs=2e-3)
    assert pytest.approx(0.202, abs=5e-4) == GAUSSIAN_HOYER
    assert larger.hoyer == pytest.approx(found.hoyer)
    assert larger.below_tenth_rms == pytest.approx(found.below_tenth_rms)
    assert larger.below["0.1"] < found.below["0.1"] / 7
    one = torch.zeros(10, 10)
    one[3, 4] = 2.0
    assert sparsity(one).hoyer == pytest.approx(1.0)
    assert sparsity(torch.ones(4, 4)).hoyer == pytest.approx(0.0)
    assert sparsity(torch.zeros(4, 4)).hoyer is None


def test_norm_scales() -> None:
    found = norm_scale("input", torch.tensor([1.0, 0.81, 1.19, 2.0, 0.4, -1.0, 1.5, 0.5]))
    assert (found.above_1_5, found.below_0_5, found.near_1, found.negative) == (0.125, 0.25, 0.375, 1)
    assert (found.least, found.greatest, found.mean) == (-1.0, 2.0, pytest.approx(0.8))
