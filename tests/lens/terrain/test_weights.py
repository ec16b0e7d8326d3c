import math

import pytest
import torch

from entropick_lens.terrain.across_layers import layer_cosines
from entropick_lens.terrain.neurons import mlp_neurons, neurons_of, norm_products, silent_neurons
from entropick_lens.terrain.query_key import layer_symmetries, query_key_symmetry


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key.double().T @ query.double()


def test_symmetry_of_known_answers(golden) -> None:
    case = golden["qk_manifold"]
    m = torch.tensor(case["QK"], dtype=torch.float64)
    found = query_key_symmetry(torch.eye(2), m.T)
    assert found.deviation == pytest.approx(case["symmetry_deviation"], abs=1e-9)
    assert list(found.eigenvalues) == pytest.approx(case["sym_eigs"], abs=1e-9)
    assert (found.positive, found.negative) == (case["pos"], case["neg"])


@pytest.mark.parametrize(("dim", "width"), [(8, 40), (8, 12), (16, 16)])
def test_the_small_problem_has_the_eigenvalues_of_the_large(dim: int, width: int) -> None:
    q, k = noise(dim, width), noise(dim, width, seed=1)
    m = product(q, k)
    values = torch.linalg.eigvalsh((m + m.T) / 2)
    known = values[values.abs() > 1e-9 * values.abs().max()].flip(0)
    found = query_key_symmetry(q, k)
    torch.testing.assert_close(torch.tensor(found.eigenvalues, dtype=torch.float64), known)
    assert found.deviation == pytest.approx(float((m - m.T).norm() / m.norm()))
    assert found.balance == pytest.approx(float(m.trace() / values.abs().sum()))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_signs_are_always_balanced_where_rows_are_independent(scale: float) -> None:
    """Sylvester: D positive and D negative, even for a head that is all but symmetric."""
    q = noise(16, 64)
    for key in (noise(16, 64, seed=1), q + 0.1 * noise(16, 64, seed=2)):
        found = query_key_symmetry(q * scale, key)
        assert (found.positive, found.negative) == (16, 16)


def test_balance_tells_random_symmetric_and_half_mixed_heads_apart() -> None:
    q, other = noise(64, 576), noise(64, 576, seed=1)
    random, same = query_key_symmetry(q, other), query_key_symmetry(q, q)
    assert random.balance == pytest.approx(0.0, abs=0.02)
    assert random.deviation == pytest.approx(math.sqrt(2), abs=0.01)
    assert same.balance == pytest.approx(1.0)
    assert same.deviation == pytest.approx(0.0, abs=1e-6)
    assert (same.positive, same.negative) == (64, 0)
    q, other = noise(64, 256), noise(64, 256, seed=1)
    assert query_key_symmetry(q, (q + other) / 2).balance == pytest.approx(0.76, abs=0.015)
    assert query_key_symmetry(q, -q).balance == pytest.approx(-1.0)


def test_a_head_takes_the_key_head_of_its_group() -> None:
    query, key = noise(6 * 4, 32), noise(2 * 4, 32, seed=1)
    query[5 * 4 :] = key[4:]
    found = layer_symmetries(query, key, 6, 2)
    assert found[5].balance == pytest.approx(1.0)
    assert found[4] == query_key_symmetry(query[16:20], key[4:])
    assert found[1] == query_key_symmetry(query[4:8], key[:4])
    with pytest.raises(ValueError, match="do not divide"):
        layer_symmetries(query, key, 5, 2)


def test_a_head_of_zeros_has_no_figures() -> None:
    found = query_key_symmetry(torch.zeros(2, 8), torch.zeros(2, 8))
    assert (found.deviation, found.balance, found.positive, found.negative) == (None, None, 0, 0)


def test_one_dead_neuron() -> None:
    found = neurons_of(torch.tensor([1.0, 1.0, 1.0, 0.005]))
    assert (found.dead, found.weak, found.dead_ids) == (1, 1, (3,))


def test_a_planted_dead_neuron_and_a_weak_one() -> None:
    gate, up, down = noise(128, 32), noise(128, 32, seed=1), noise(32, 128, seed=2)
    assert mlp_neurons(gate, up, down).dead == 0
    gate[17] *= 1e-3
    down[:, 90] *= 0.05
    found = mlp_neurons(gate, up, down)
    assert (found.neurons, found.dead, found.weak, found.dead_ids) == (128, 1, 2, (17,))
    assert mlp_neurons(None, up, down).dead == 0
    with pytest.raises(ValueError, match="every neuron"):
        mlp_neurons(gate, up * 0, down)


def test_a_neuron_that_never_fires_on_a_text() -> None:
    down = noise(32, 128)
    peaks = 1.0 + noise(128).abs()
    peaks[64] = 1e-4
    down[:, 3] = 0.0
    products = norm_products(noise(128, 32), noise(128, 32), down)
    found = silent_neurons(peaks, down, 512, products)
    assert (found.silent, found.silent_ids, found.positions, found.dead_too) == (2, (3, 64), 512, 1)


def layers_with_copies() -> list[torch.Tensor]:
    layers = [noise(96, 64, seed=seed) for seed in range(4)]
    order = torch.randperm(96, generator=torch.Generator().manual_seed(9))
    layers[2] = layers[0].clone()
    layers[3] = layers[1][order]
    return layers


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("budget", [1 << 20, 1 << 13])
def test_a_copied_layer_and_a_permuted_copy(side: int, budget: int) -> None:
    layers = [w if side == 1 else w.T.contiguous() for w in layers_with_copies()]
    found = layer_cosines(lambda at: layers[at], 4, side, budget)
    assert found.flat[0][2] == pytest.approx(1.0, abs=1e-5)
    assert found.gram[0][2] == pytest.approx(1.0, abs=1e-4)
    assert abs(found.flat[1][3]) < 5 * found.flat_null
    assert found.gram[1][3] == pytest.approx(1.0, abs=1e-4)
    assert abs(found.flat[0][1]) < 4 * found.flat_null
    assert found.flat_null == pytest.approx(1 / math.sqrt(96 * 64))
    assert found.flat_extreme == (0, 2)
    w, v = layers_with_copies()[0].double(), layers_with_copies()[1].double()
    a, b = w.T @ w, v.T @ v
    a, b = a - a.trace() / 64 * torch.eye(64), b - b.trace() / 64 * torch.eye(64)
    assert found.gram[0][1] == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), abs=1e-4)
    assert abs(found.gram[0][1]) < 4 * found.gram_null


def test_one_layer_has_no_cosines() -> None:
    with pytest.raises(ValueError, match="two layers"):
        layer_cosines(lambda at: noise(4, 4), 1, 1)
