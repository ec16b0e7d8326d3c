"""The relation of geometry and attention, on figures whose relation is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entropick_lens.heads.geometry import from_spectra
from entropick_lens.heads.relation import Dynamic, pair, plots, relate, sentences, thirds
from entropick_lens.heads.spectrum import NAMES
from entropick_lens.report import draw_svg


def figures(layers: int = 9, heads: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    spectra = np.sort(rng.gamma(0.7, size=(layers, heads, 16)), axis=-1)[..., ::-1] * rng.gamma(
        4.0, size=(layers, heads, 1)
    )
    return spectra, rng.normal(size=(layers, heads))


def attention(entropy: np.ndarray, spread: np.ndarray) -> Dynamic:
    def as_grid(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(map(float, row)) for row in values)

    return Dynamic(as_grid(entropy), as_grid(spread), as_grid(spread))


def test_a_planted_relation_is_found_and_its_exceptions_are_named() -> None:
    spectra, noise = figures()
    geometry = from_spectra(
        tuple(tuple(map(tuple, layer.tolist())) for layer in spectra), folded=True, rotary=False
    )
    rank = np.array(geometry.rank_eff, dtype=float)
    entropy = rank + 0.3 * noise
    entropy[3, 5] += 6.0
    found = relate(geometry, attention(entropy, noise), 400, 0)
    assert dict(found.best)["entropy"] == "rank_eff"
    best = pair(found, "rank_eff", "entropy")
    assert best.r == pytest.approx(np.corrcoef(rank.ravel(), entropy.ravel())[0, 1])
    assert best.p == pytest.approx(1 / 401)
    assert best.p_holm == pytest.approx(min(1.0, found.tests / 401))
    assert len(found.pairs) == 8 * 2 + 8 * 3
    early = pair(found, "op", "entropy", "early")
    op = np.array(geometry.op, dtype=float)
    assert early.n == 24
    assert early.r == pytest.approx(np.corrcoef(op[:3].ravel(), entropy[:3].ravel())[0, 1])
    assert found.unpredicted[0] == (3, 5)
    assert len(found.unpredicted) == 18
    assert found.regression is not None
    assert found.regression_without_anisotropy is not None
    assert found.regression.r2 > 0.6
    assert [term.name for term in found.regression.terms] == ["op", "spec_ent", "rank_eff", "anisotropy"]
    said = " ".join(sentences(found))
    assert "goes best with rank_eff" in said
    assert "heads 3.5" in said
    assert all(draw_svg(plot).startswith("<svg") for plot in plots(found))


def test_thirds_of_a_depth_that_three_does_not_divide() -> None:
    assert [list(own) for own in thirds(4).values()] == [[0], [1], [2, 3]]
    assert [list(own) for own in thirds(1).values()] == [[], [], [0]]


def test_heads_without_a_rank_are_left_out_and_flat_figures_have_no_correlation() -> None:
    spectra, noise = figures(3, 4)
    spectra[1, 2] = 0.0
    geometry = from_spectra(
        tuple(tuple(map(tuple, layer.tolist())) for layer in spectra), folded=True, rotary=False
    )
    flat = replace(attention(noise, np.ones_like(noise)), score_std_predicted=())
    found = relate(geometry, flat, 100, 0)
    assert pair(found, "rank_eff", "entropy").n == 11
    assert pair(found, "op", "entropy").n == 12
    assert all(pair(found, name, "score_std").r is None for name in NAMES)
    assert [target for target, _ in found.best] == ["entropy"]
    assert found.residual[1][2] is None
    assert found.regression_score_std is None
    sentences(found)
