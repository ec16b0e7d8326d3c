"""Singular values of the query-key form against known answers, a dense reference, and heads with faults."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from entropick_lens.heads import geometry
from entropick_lens.heads.spectrum import NAMES, alignment, describe, singular_values, triangle

from .support import GOLDEN, QUIET, make, opened, rows_of

CASES = GOLDEN["11_head_geometry"]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: str(case["singvals"]))
def test_the_seven_figures(case: dict[str, float]) -> None:
    found = describe(case["singvals"])
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(case[name], rel=1e-9, abs=1e-20), name


def test_the_form_is_not_the_product_of_the_projections() -> None:
    example = CASES["metric_example"]
    w_q, w_k = (torch.tensor(example[name], dtype=torch.float64) for name in ("W_Q", "W_K"))
    found = singular_values(triangle(w_q), triangle(w_k)).tolist()
    assert found == pytest.approx(example["sv_of_WKt_WQ"], abs=1e-9)
    product = torch.linalg.svdvals(w_q @ w_k.T).tolist()
    assert product == pytest.approx(example["sv_of_WQ_WKt_not_equal"], abs=1e-9)
    assert found != pytest.approx(product, abs=1e-3)


def test_anisotropy_is_the_width_by_the_effective_rank() -> None:
    found = describe(np.random.default_rng(0).gamma(1.0, size=64))
    assert found.anisotropy is not None
    assert found.rank_eff is not None
    assert found.anisotropy == pytest.approx(64 / found.rank_eff)


def test_a_form_of_zeros_has_no_rank() -> None:
    found = describe([0.0, 0.0])
    assert (found.op, found.fro, found.trace) == (0.0, 0.0, 0.0)
    assert (found.rank_eff, found.spec_ent, found.anisotropy, found.condition) == (None,) * 4


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("head_dim", [8, 64])  # 64: wider than the model
def test_every_head_against_the_dense_form(tmp_path: Path, raw: bool, head_dim: int) -> None:
    model = opened(make(tmp_path, head_dim=head_dim))
    values, aligned = geometry.layer_spectra(model.weights, model.shape, 2, raw=raw)
    w_q, w_k = (model.weights.stored(f"layers.2.self_attn.{p}_proj.weight").double() for p in "qk")
    if not raw:
        gamma = model.weights.stored("layers.2.input_layernorm.weight").double()
        w_q, w_k = w_q * gamma, w_k * gamma
    for head in range(6):
        own = w_q[head * head_dim : (head + 1) * head_dim]
        key = w_k[head // 3 * head_dim : (head // 3 + 1) * head_dim]
        form = key.T @ own
        dense = torch.linalg.svdvals(form)[:head_dim].tolist()
        assert values[head] == pytest.approx(dense, rel=1e-5, abs=1e-6)
        assert aligned[head] == pytest.approx(float(form.trace()) / sum(dense), abs=1e-6)


def test_planted_faults_are_found(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name, rows = rows_of(1, "q", 4)
        u, v = torch.randn(8, 1), torch.randn(1, 48)
        tensors[name][rows] = u @ v  # of rank one
        for head in range(3):  # the keys of three heads equal their queries
            name, rows = rows_of(2, "q", head)
            key, own = rows_of(2, "k", 0)
            tensors[name][rows] = tensors[key][own]
        name, rows = rows_of(3, "q", 0)
        tensors[name][rows] = 0.0

    found = geometry.measure(opened(make(tmp_path, change)), QUIET, {})
    assert found.rank_eff[1][4] == pytest.approx(1.0, abs=1e-5)
    assert [found.alignment[2][head] for head in range(3)] == pytest.approx([1.0] * 3)
    assert found.rank_eff[3][0] is None
    others = [x for i, row in enumerate(found.alignment) for x in row if i != 2 and x is not None]
    assert max(map(abs, others)) < 0.6
    said = geometry.sentences(found)
    assert "head 3.0: the query-key form is 0" in said[0]
    assert "head 1.4: the query-key form is of rank one" in said[1]
    assert "heads 2.0, 2.1, 2.2: keys equal queries" in said[2]


def test_a_model_without_faults_has_none(tmp_path: Path) -> None:
    said = " ".join(geometry.sentences(geometry.measure(opened(make(tmp_path)), QUIET, {})))
    assert "rank one" not in said
    assert "keys equal" not in said
    assert "distance 0" in said


@pytest.mark.parametrize(("kind", "left"), [("qwen2", "biases"), ("qwen3", "norms of single heads")])
def test_parts_that_the_form_leaves_out_are_named(tmp_path: Path, kind: str, left: str) -> None:
    found = geometry.measure(opened(make(tmp_path, kind=kind)), QUIET, {})
    assert f"this model's {left} of queries and keys are left out" in geometry.sentences(found)[-1]


def test_a_rotation_of_the_queries_changes_the_singular_values() -> None:
    torch.manual_seed(0)
    w_q, w_k = torch.randn(8, 48, dtype=torch.float64), torch.randn(8, 48, dtype=torch.float64)
    angle = torch.tensor([1.0, 0.3, 0.1, 0.03])  # the pairs (i, i + D/2) of an offset of one position
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    turned = torch.cat((w_q[:4] * cos - w_q[4:] * sin, w_q[4:] * cos + w_q[:4] * sin)).double()
    at_0, at_1 = (singular_values(triangle(w), triangle(w_k)) for w in (w_q, turned))
    assert not torch.allclose(at_0, at_1, rtol=1e-3)
    assert math.isclose(float(alignment(w_q, w_q, singular_values(triangle(w_q), triangle(w_q)).sum())), 1.0)
