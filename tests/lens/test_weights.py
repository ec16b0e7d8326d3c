"""Weights as they lie in the files: names, shapes, heads, the folded norm."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from entropick_lens.weights import PARTS, Shape, Weights, WeightsError

from .support import make, opened


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_the_models_own(tmp_path: Path, kind: str, tied: bool) -> None:
    make(tmp_path, kind=kind, tie_word_embeddings=tied)
    found = opened(tmp_path).weights
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    for layer, module in enumerate(model.model.layers):
        attention, mlp = module.self_attn, module.mlp
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        theirs = [getattr(attention, name) for name in names] + [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        for part, linear in zip(PARTS, theirs, strict=True):
            assert torch.equal(found.matrix(layer, part, raw=True), linear.weight)
        x = torch.randn(3, 48)
        normed = module.input_layernorm(x)
        bare = x / x.square().mean(-1, keepdim=True).add(model.config.rms_norm_eps).sqrt()
        torch.testing.assert_close(
            bare @ found.matrix(layer, "q").T, normed @ attention.q_proj.weight.T, rtol=1e-4, atol=1e-5
        )
        normed = module.post_attention_layernorm(x)
        torch.testing.assert_close(
            bare @ found.matrix(layer, "up").T, mlp.up_proj(normed), rtol=1e-4, atol=1e-5
        )
        assert torch.equal(found.matrix(layer, "down"), mlp.down_proj.weight)
    assert torch.equal(found.final_norm(), model.model.norm.weight)
    assert found.tied is tied
    head = torch.cat([rows for _, rows in found.head_rows(100)])
    assert torch.equal(head, model.lm_head.weight)
    pieces = list(found.embedding_rows(1000))
    assert [start for start, _ in pieces] == [0, 1000]
    assert torch.equal(torch.cat([rows for _, rows in pieces]), model.model.embed_tokens.weight)
    assert sum(n for _, n in found.sizes()) == sum(p.numel() for p in model.parameters())


def test_gemmas_scale_is_one_more_than_is_stored(tmp_path: Path) -> None:
    make(tmp_path, kind="gemma2", query_pre_attn_scalar=8, sliding_window=64)
    found = opened(tmp_path).weights
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    layer = model.model.layers[1]
    torch.testing.assert_close(found.norm(1, "attention"), 1 + layer.input_layernorm.weight)
    torch.testing.assert_close(found.norm(1, "mlp"), 1 + layer.pre_feedforward_layernorm.weight)
    torch.testing.assert_close(
        found.matrix(1, "k"), layer.self_attn.k_proj.weight * (1 + layer.input_layernorm.weight)
    )


def test_heads_of_grouped_queries(tmp_path: Path) -> None:
    found = opened(make(tmp_path)).weights
    assert found.heads(2, "q").shape == (6, 8, 48)
    assert found.heads(2, "k").shape == (2, 8, 48)
    assert torch.equal(found.heads(2, "q")[4], found.matrix(2, "q")[32:40])
    assert [found.shape.kv_head(head) for head in range(6)] == [0, 0, 0, 1, 1, 1]


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    parts = tmp_path / "parts"
    make(whole)
    model = AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(parts, max_shard_size="200KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    shape = opened(whole).shape
    one, many = Weights(whole, shape), Weights(parts, shape)
    assert one.names() == many.names()
    assert all(torch.equal(one.matrix(3, part), many.matrix(3, part)) for part in PARTS)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    shape = opened(make(tmp_path)).shape
    with pytest.raises(WeightsError, match=r"no tensor model\.layers\.9\.self_attn\.q_proj"):
        Weights(tmp_path, shape).matrix(9, "q")
    wrong = Shape(4, 6, 6, 8, 48, 80, 1984)
    with pytest.raises(WeightsError, match=r"layer 0, k: the weights have shape \[16, 48\].* \[48, 48\]"):
        Weights(tmp_path, wrong).matrix(0, "k")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 9)
    with pytest.raises(WeightsError, match="cannot be read"):
        Weights(tmp_path, shape)
