import math

import pytest
import torch

from entropick_lens.terrain.states import layer_states


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair_cosine(text: torch.Tensor) -> float:
    u = torch.nn.functional.normalize(text.double(), dim=1)
    return float((u @ u.T)[torch.triu_indices(*[len(text)] * 2, 1).unbind()].mean())


def test_the_first_position_is_told_apart() -> None:
    text = noise(20, 16)
    text[0] = 100.0
    found = layer_states([text])
    norms = text.double().norm(dim=1)
    assert found.first_norm == pytest.approx(400.0)
    assert found.mean_norm == pytest.approx(float(norms.mean()))
    assert found.mean_norm_without_first == pytest.approx(float(norms[1:].mean()))
    assert found.pair_cosine == pytest.approx(pair_cosine(text))
    assert found.pair_cosine_without_first == pytest.approx(pair_cosine(text[1:]))
    assert found.null_deviation == pytest.approx(0.25)
    assert found.change_cosine is None


def test_pairs_of_different_texts_are_none() -> None:
    one, other = noise(5, 8) + 3.0, noise(9, 8, seed=1) - 3.0
    found = layer_states([one, other])
    pairs = (10 * pair_cosine(one) + 36 * pair_cosine(other)) / 46
    assert found.pair_cosine == pytest.approx(pairs)
    assert found.pair_cosine > 0.5


def test_the_change_from_a_layer_to_the_next() -> None:
    before = noise(12, 8)
    assert layer_states([before * 2.0], [before]).change_cosine == pytest.approx(1.0)
    assert layer_states([-before], [before]).change_cosine == pytest.approx(-1.0)


def test_a_text_of_one_token_has_no_pairs() -> None:
    found = layer_states([torch.full((1, 4), 2.0)])
    assert found.mean_norm == pytest.approx(4.0)
    assert math.isfinite(found.first_norm)
    assert (found.pair_cosine, found.mean_norm_without_first) == (None, None)
    with pytest.raises(ValueError, match="at least one"):
        layer_states([])
    with pytest.raises(ValueError, match="at least one"):
        layer_states([torch.zeros(0, 4)])
