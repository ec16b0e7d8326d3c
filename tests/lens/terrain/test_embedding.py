import math

import pytest
import torch

from entropick_lens.terrain.correlation import pearson, quantiles, ranks, spearman
from entropick_lens.terrain.embedding import (
    gaussian_participation_share,
    mean_cosine,
    norms,
    participation_ratio,
    spectrum,
)
from entropick_lens.terrain.groups import unit
from entropick_lens.terrain.rows import row_chunks, sum_rows


def noise(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_participation_ratio_of_known_answers(golden) -> None:
    case = golden["participation_ratio"]
    assert participation_ratio(torch.tensor(case["eigenvalues"])) == pytest.approx(case["pr"], abs=1e-9)
    sums = sum_rows([torch.tensor(case["data"], dtype=torch.float64)])
    found = spectrum(sums)
    assert sorted(found.eigenvalues) == pytest.approx(case["cov_eigs"], abs=1e-9)
    assert found.participation_ratio == pytest.approx(case["pr_data"], abs=1e-9)


@pytest.mark.parametrize(("rows", "width", "share"), [(32128, 512, 0.984), (10_000, 1024, 0.907)])
def test_the_gaussian_null_of_the_participation_ratio(rows: int, width: int, share: float) -> None:
    assert gaussian_participation_share(rows, width) == pytest.approx(share, abs=5e-4)


def test_gaussian_rows_have_the_share_of_the_null() -> None:
    found = spectrum(sum_rows(row_chunks(noise(2000, 200))))
    assert found.participation_share == pytest.approx(found.gaussian_share, rel=0.01)
    assert found.gaussian_share == pytest.approx(2000 / 2200)


def test_chunks_give_what_the_whole_matrix_gives() -> None:
    x = noise(1000, 32) + 3.0
    whole, parts = sum_rows([x]), sum_rows(row_chunks(x, 77), keep=(0, 76, 77, 999))
    for one, other in (
        (whole.gram, parts.gram),
        (whole.unit_total, parts.unit_total),
        (whole.norms, parts.norms),
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.of((999, 0, 76, 77)), x[[999, 0, 76, 77]].double())
    expected = torch.cov(x.double().T, correction=0)
    torch.testing.assert_close(parts.covariance(), expected, rtol=1e-9, atol=1e-9)


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    x = noise(300, 24) + 0.4
    x[5] = 0.0
    u = unit(x[torch.arange(300) != 5])
    all_pairs = (u @ u.T).triu(1).sum() / (299 * 298 / 2)
    found = mean_cosine(sum_rows(row_chunks(x, 64)))
    assert found.mean == pytest.approx(float(all_pairs), abs=1e-12)
    assert found.rows == 299
    assert found.null_deviation == pytest.approx(1 / math.sqrt(24))


def test_norms_count_rows_of_zeros_and_rows_that_are_not_finite() -> None:
    x = noise(100, 8)
    x[3], x[7], x[9, 2] = 0.0, 50.0, math.nan
    sums = sum_rows(row_chunks(x, 16))
    found = norms(sums)
    assert (found.zero_rows, found.not_finite_rows, sums.counted) == (1, 1, 99)
    assert (found.lowest[0], found.highest[0]) == (3, 7)
    assert found.greatest == pytest.approx(50 * math.sqrt(8))
    rest = x[torch.arange(100) != 9].double().norm(dim=1)
    assert found.quantiles["0.5"] == pytest.approx(float(rest.quantile(0.5)))
    assert torch.isfinite(sums.gram).all()
    assert spectrum(sums).participation_ratio is not None


def test_a_shuffled_embedding_has_the_same_sums() -> None:
    x = noise(500, 16) + 0.3
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    before, after = sum_rows(row_chunks(x)), sum_rows(row_chunks(x[order]))
    assert spectrum(after).participation_ratio == pytest.approx(
        spectrum(before).participation_ratio, rel=1e-9
    )
    assert mean_cosine(after).mean == pytest.approx(mean_cosine(before).mean, rel=1e-9)
    assert norms(after).quantiles == pytest.approx(norms(before).quantiles)


def test_dimensions_hold_their_share_of_the_variance() -> None:
    x = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]).sqrt())
    found = spectrum(sum_rows([torch.cat((x, -x))]))
    # variances in the ratio 8 : 4 : 2 : 1; 12 of 15 is 80 % exactly
    assert found.dimensions == {"80": 2, "90": 3, "95": 4, "99": 4}


def test_a_constant_embedding_has_no_ratio() -> None:
    found = spectrum(sum_rows([torch.ones(10, 4)]))
    assert found.participation_ratio is None
    assert mean_cosine(sum_rows([torch.ones(10, 4)])).mean == pytest.approx(1.0)


def test_no_rows_and_no_finite_rows_are_errors() -> None:
    with pytest.raises(ValueError, match="no rows"):
        sum_rows([])
    with pytest.raises(ValueError, match="not finite"):
        norms(sum_rows([torch.full((3, 2), math.inf)]))


def test_correlations() -> None:
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 4.0, 9.0, 16.0])
    assert pearson(x, y) == pytest.approx(0.9843740386976972)
    assert spearman(x, y) == pytest.approx(1.0)
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert pearson(x, torch.ones(4)) is None
    assert quantiles(x, (0.0, 0.5, 1.0)) == (1.0, 2.5, 4.0)
