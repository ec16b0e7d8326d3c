import math

import pytest
import torch

from entropick_lens.terrain.groups import (
    category_lift,
    digit_manifold,
    head_agreement,
    mean_pair_cosine,
    special_tokens,
    unit,
)
from entropick_lens.terrain.rows import row_chunks


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_digits_nine_degrees_apart() -> None:
    angle = torch.arange(10) * math.radians(9)
    found = digit_manifold(torch.stack((angle.cos(), angle.sin()), 1))
    assert found.correlation == pytest.approx(-0.97740, abs=1e-5)
    assert found.p_value == pytest.approx(1e-4, abs=3e-4)
    assert found.cosines[2][5] == pytest.approx(math.cos(math.radians(27)))


def test_digits_in_a_random_order_have_no_line() -> None:
    angle = torch.tensor([3, 8, 0, 5, 9, 1, 6, 2, 7, 4]) * math.radians(9)
    found = digit_manifold(torch.stack((angle.cos(), angle.sin()), 1))
    assert found.correlation is not None
    assert found.p_value is not None
    assert abs(found.correlation) < 0.4
    assert found.p_value > 0.05


def test_digits_must_be_ten() -> None:
    with pytest.raises(ValueError, match="ten rows, not 9"):
        digit_manifold(noise(9, 4))
    assert digit_manifold(torch.ones(10, 3)).correlation is None


def test_the_mean_pair_cosine() -> None:
    x = noise(7, 5)
    u = unit(x)
    pairs = [float(u[i] @ u[j]) for i in range(7) for j in range(i)]
    assert float(mean_pair_cosine(x)) == pytest.approx(sum(pairs) / 21)


def test_a_category_with_a_common_part_has_lift_and_a_random_one_none() -> None:
    pool = noise(400, 32)
    together = noise(8, 32, seed=1) + 2.0 * noise(1, 32, seed=2)
    lifts = {
        lift.category: lift
        for lift in category_lift(
            {"animals": together, "none": noise(8, 32, seed=3), "two": noise(2, 32)}, pool, 0.0, draws=500
        )
    }
    assert set(lifts) == {"animals", "none"}
    assert lifts["animals"].lift > 0.5
    assert lifts["animals"].p_value == pytest.approx(1 / 501)
    assert lifts["none"].p_value > 0.02
    # the mean over 28 pairs of random directions: sd 1 / sqrt(28 d)
    assert lifts["none"].random_deviation == pytest.approx(1 / math.sqrt(28 * 32), rel=0.25)


def test_a_shuffled_embedding_loses_digits_lift_and_head() -> None:
    """The planted fault that no norm, ratio, cosine or volume sees."""
    angle = torch.arange(10) * math.radians(9)
    embedding = 0.3 * noise(300, 16)
    embedding[:10, :2] += 4 * torch.stack((angle.cos(), angle.sin()), 1)
    embedding[10:18, 5] += 3.0
    head = embedding + 0.05 * noise(300, 16, seed=4)
    shuffled = embedding[torch.randperm(300, generator=torch.Generator().manual_seed(5))]
    figures = []
    for rows in (embedding, shuffled):
        lift = category_lift({"words": rows[10:18]}, rows[18:], 0.0, draws=200)[0]
        agreement = head_agreement(zip(row_chunks(rows, 64), row_chunks(head, 64), strict=True))
        figures.append((digit_manifold(rows[:10]).correlation, lift.p_value, agreement))
    (line, p, same), (lost_line, lost_p, lost) = figures
    assert line < -0.9 < -0.5 < lost_line
    assert p < 0.01 < lost_p
    assert same.mean_cosine > 0.95
    assert lost.mean_cosine == pytest.approx(lost.neighbour_cosine, abs=0.1)
    assert same.frobenius_gap < 0.2 < lost.frobenius_gap


def test_special_tokens_are_placed_among_the_norms() -> None:
    rows = noise(100, 6) + 1.0
    rows[4] *= 1e-3
    norms = rows.double().norm(dim=1)
    found = special_tokens({"<pad>": 4, "<end>": 50}, rows[[4, 50]], norms, rows.double().mean(0))
    assert (found[0].token, found[0].norm_quantile) == ("<pad>", 0.0)
    assert found[1].norm == pytest.approx(float(norms[50]))
    assert -1.0 <= found[1].cosine_to_mean <= 1.0


def test_a_head_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        head_agreement([(noise(3, 4), noise(3, 5))])
    with pytest.raises(ValueError, match="no row"):
        head_agreement([(torch.zeros(2, 4), noise(2, 4))])
    same = head_agreement([(noise(9, 4), noise(9, 4))])
    assert same.mean_cosine == pytest.approx(1.0)
    assert same.frobenius_gap == 0.0
