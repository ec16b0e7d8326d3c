import pytest
import torch

from entropick_lens.terrain.groups import unit
from entropick_lens.terrain.procrustes import align, fit_rotation


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(width: int, seed: int = 7) -> torch.Tensor:
    return torch.linalg.qr(noise(width, width, seed=seed)).Q


def test_the_rotation_of_known_answers(golden) -> None:
    case = golden["procrustes"]
    a, b = torch.tensor(case["A"], dtype=torch.float64), torch.tensor(case["B"], dtype=torch.float64)
    found = fit_rotation(a, b, centred=False)
    torch.testing.assert_close(
        found.rotation, torch.tensor(case["recovered_R"], dtype=torch.float64), atol=1e-9, rtol=1e-9
    )
    assert float((a @ found.rotation - b).norm()) == pytest.approx(case["residual"], abs=1e-9)
    assert found.scale == pytest.approx(1.0, abs=1e-9)


def test_the_scale_divides_by_the_squared_norm() -> None:
    a = noise(200, 16)
    found = fit_rotation(a, 3.0 * a @ turn(16) + 5.0)
    assert found.scale == pytest.approx(3.0)
    assert found.singular_sum == pytest.approx(3.0 * float((a - a.mean(0)).norm() ** 2))
    torch.testing.assert_close(found.apply(a), 3.0 * a @ turn(16) + 5.0)
    with pytest.raises(ValueError, match="all the same"):
        fit_rotation(torch.ones(20, 3), noise(20, 3))
    with pytest.raises(ValueError, match="differ in shape"):
        fit_rotation(noise(20, 3), noise(20, 4))


def test_noise_aligns_in_sample_and_not_held_out() -> None:
    """500 x 64 of pure noise: a cosine of .30 on the anchors, about 0 on the rest."""
    rotation = fit_rotation(noise(500, 64), noise(500, 64, seed=1), centred=False)
    mapped = noise(500, 64) @ rotation.rotation
    inside = float((unit(mapped) * unit(noise(500, 64, seed=1))).sum(-1).mean())
    assert inside == pytest.approx(0.30, abs=0.02)
    found = align(noise(1000, 64), noise(1000, 64, seed=1), 500)
    assert found.cosine_anchors == pytest.approx(0.30, abs=0.02)
    assert abs(found.cosine_held_out) < 0.02
    assert found.pair_cosine_r == pytest.approx(0.0, abs=0.02)
    assert found.residual_held_out > 1.0


def test_a_turned_copy_aligns_held_out() -> None:
    a = noise(400, 24)
    b = 2.0 * a @ turn(24) + 0.1 * noise(400, 24, seed=2)
    b[-3] = noise(24, seed=5) * 2.0
    found = align(a, b, 200, seed=3)
    assert found.cosine_held_out > 0.99 > 0.3 > abs(found.cosine_shuffled)
    assert found.scale == pytest.approx(2.0, rel=0.02)
    assert found.pair_cosine_r > 0.98
    assert found.residual_held_out < 0.15
    assert found.projected_from is None
    seen = torch.randperm(400, generator=torch.Generator().manual_seed(3))[:200].tolist()
    assert not set(found.best + found.worst) & set(seen)
    assert 397 in seen or found.worst[0] == 397


def test_a_wider_model_is_projected_on_its_principal_axes() -> None:
    a = noise(600, 12)
    b = torch.cat((a @ turn(12), 0.05 * noise(600, 8, seed=3)), 1) @ turn(20, 9)
    found = align(a, b, 300)
    assert (found.width, found.projected_from) == (12, 20)
    assert found.cosine_held_out > 0.98
    with pytest.raises(ValueError, match="fewer than ten"):
        align(a, b, 595)
