import math

import numpy as np
import pytest
import torch

from entropick_lens.terrain.embedding import spectrum
from entropick_lens.terrain.rows import sum_rows
from entropick_lens.terrain.simplices import draw_simplices, simplex_variation, variation, volumes


def of(x: torch.Tensor, count: int = 1000):
    sums = sum_rows([x])
    return simplex_variation(x, sums.mean, spectrum(sums).eigenvalues, count)


def regular(width: int, scale: float = 1.0) -> torch.Tensor:
    return torch.eye(5, width, dtype=torch.float64) * scale


def test_volumes_of_known_answers(golden) -> None:
    triangle = golden["cayley_menger"]["triangle_3_4_5"]
    found = volumes(torch.tensor(triangle["points"]))
    assert float(found) == pytest.approx(triangle["area"], abs=1e-9)
    assert float(found) ** 2 == pytest.approx(triangle["vol_sq"], abs=1e-9)
    pentachoron = golden["cayley_menger"]["regular_pentachoron_edge_sqrt2"]
    assert float(volumes(regular(5))) == pytest.approx(pentachoron["vol"], abs=1e-9)
    line = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert float(volumes(line)) == pytest.approx(golden["cayley_menger"]["degenerate_collinear"], abs=1e-9)


def test_variations_of_known_answers(golden) -> None:
    case = golden["pentachoron_cv"]
    two = volumes(torch.stack((regular(5), regular(5, 2.0))))
    assert two.tolist() == pytest.approx(case["two_regular_scales_1_2"]["volumes"], abs=1e-9)
    assert variation(two) == pytest.approx(case["two_regular_scales_1_2"]["exact"], abs=1e-9)
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 6)))
    found = volumes(points[torch.tensor(case["simplices"])])
    assert found.tolist() == pytest.approx(case["volumes"], abs=1e-9)
    assert variation(found) == pytest.approx(case["cv_population"], abs=1e-9)


def test_zero_volumes_are_kept() -> None:
    found = volumes(torch.stack((regular(5), torch.zeros(5, 5, dtype=torch.float64))))
    assert found[1] == 0.0
    assert variation(found) == pytest.approx(1.0)
    assert volumes(torch.randn(2, 5, 3)).tolist() == [0.0, 0.0]


def test_gaussian_null_by_width(golden) -> None:
    """A thousand simplices estimate a variation within about 2.2 % (standard error 1 / sqrt(2 n))."""
    for width, known in golden["pentachoron_cv"]["gaussian_null_cv_by_dim"].items():
        rows = torch.randn(5, int(width), generator=torch.Generator().manual_seed(3))
        found = simplex_variation(rows, rows.mean(0), [1.0] * int(width), 1000, seed=1)
        assert found.gaussian == pytest.approx(known, rel=0.08)
    assert math.sqrt(2 / 512) == pytest.approx(0.0627, rel=0.005)


def test_directions_of_one_norm_have_the_variation_of_the_sphere(golden) -> None:
    for width, known in golden["pentachoron_cv"]["unit_sphere_null_cv_by_dim"].items():
        d = int(width)
        rows = torch.nn.functional.normalize(
            torch.randn(5, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=1
        )
        found = simplex_variation(rows, torch.zeros(d, dtype=torch.float64), [1.0 / d] * d, 1000)
        assert found.own_norms == pytest.approx(known, rel=0.08)


def test_gaussian_rows_agree_with_every_null_and_the_prediction() -> None:
    x = torch.randn(10_000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = of(x, 2000)
    for other in (found.gaussian, found.same_covariance, found.own_norms, found.predicted):
        assert found.variation == pytest.approx(other, rel=0.08)
    low, high = found.interval
    assert low < found.variation < high


@pytest.mark.parametrize(("spread", "decay"), [(0.11, 0.0), (0.2, 0.0), (0.11, 1.5), (0.0, 1.0)])
def test_norms_and_the_participation_ratio_predict_the_variation(spread: float, decay: float) -> None:
    """CV^2 = 0.4 / PR + 3.2 c^2 within 3 %; 4,000 simplices estimate the variation within 1.1 %."""
    generator = torch.Generator().manual_seed(1)
    width = 512
    scale = torch.exp(-decay * torch.arange(width) / width).double()
    x = torch.randn(10_000, width, generator=generator, dtype=torch.float64) * scale
    lengths = 1.0 + spread * torch.randn(10_000, 1, generator=generator, dtype=torch.float64)
    x = x / (x.norm(dim=1, keepdim=True) if decay == 0.0 else 1.0) * lengths
    found = of(x, 4000)
    assert found.predicted == pytest.approx(found.variation, rel=0.03)
    if (spread, decay) == (0.11, 0.0):
        assert found.norm_variation == pytest.approx(0.11, rel=0.05)
        assert found.variation == pytest.approx(0.20, abs=0.01)


def test_sets_are_disjoint_while_the_rows_last() -> None:
    sets = draw_simplices(50, 25, torch.Generator().manual_seed(0))
    assert sets.shape == (25, 5)
    assert len(set(sets[:10].flatten().tolist())) == 50
    assert all(len(set(one.tolist())) == 5 for one in sets)
    with pytest.raises(ValueError, match="needs 5 rows"):
        draw_simplices(4, 1, torch.Generator())
