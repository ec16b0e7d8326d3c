"""Figures of heads over text against eager transformers in float64, and the choice of layers.

Transformers' norms and softmax stay in float32 there, hence the tolerances.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from entropick_lens.forward import Attended, run_texts
from entropick_lens.heads import attention
from entropick_lens.heads.attention import AttentionVisitor
from entropick_lens.heads.choice import choose_layers
from entropick_lens.texts import Text, read_texts

from .support import QUIET, make, opened

TEXTS = [Text((1, *range(40, 61)), 5), Text((1, 7, 9, 300, 301), 2), Text((1,), 0)]
KINDS = [("llama", {}), ("qwen2", {}), ("qwen3", {}), ("mistral", {"sliding_window": 6})]
GEMMAS = [
    ("gemma2", {"query_pre_attn_scalar": 12, "sliding_window": 6, "attn_logit_softcapping": 5.0}),
    ("gemma3_text", {"query_pre_attn_scalar": 12, "sliding_window": 6, "num_hidden_layers": 6}),
]


class Seen(AttentionVisitor):
    """Keeps the residual of each layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.residuals: list[Tensor] = []

    def added(self, layer: int, residual: Tensor) -> None:
        assert layer == len(self.residuals)
        self.residuals.append(residual.clone())


def eager(folder: Path, ids: tuple[int, ...]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        return model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize(("kind", "sizes"), KINDS + GEMMAS)
def test_every_head_against_eager_attention_in_float64(
    tmp_path: Path, kind: str, sizes: dict[str, Any]
) -> None:
    model = opened(make(tmp_path, kind=kind, **sizes))
    seen = Seen()
    run_texts(model, TEXTS, seen, dtype=torch.float64)
    theirs = [eager(tmp_path, text.ids) for text in TEXTS]
    starts = [0, 22, 27]
    for layer in range(model.shape.layers):
        entropy, first, previous, spread = [], [], [], []
        for text, answer, start in zip(TEXTS, theirs, starts, strict=True):
            if layer + 1 < model.shape.layers:  # transformers norms its last hidden state
                ours = seen.residuals[layer][start : start + len(text.ids)]
                torch.testing.assert_close(ours, answer.hidden_states[layer + 1][0], rtol=1e-4, atol=1e-5)
            for at in range(1, len(text.ids)):
                row = answer.attentions[layer][0, :, at, : at + 1].numpy()
                with np.errstate(divide="ignore", invalid="ignore"):
                    logs = np.log2(row)
                    entropy.append(-np.nansum(row * logs, -1))
                # scores are logarithms of the shares but for a constant, where a query looks
                there = row[0] > 0
                spread.append((logs[:, there] * math.log(2)).std(-1))
                first.append(row[:, 0])
                previous.append(row[:, -2])
        found = seen.layers[layer]
        assert found["entropy"].numpy() == pytest.approx(np.mean(entropy, 0), rel=1e-4, abs=1e-5)
        assert found["entropy_sd"].numpy() == pytest.approx(np.std(entropy, 0), rel=1e-4, abs=1e-5)
        assert found["score_std"].numpy() == pytest.approx(np.mean(spread, 0), rel=1e-4)
        assert found["to_first"].numpy() == pytest.approx(np.mean(first, 0), rel=1e-4, abs=1e-5)
        assert found["to_previous"].numpy() == pytest.approx(np.mean(previous, 0), rel=1e-4, abs=1e-5)
    assert seen.queries == 21 + 4


def test_float32_agrees_with_float64_and_the_native_kernels_with_torch(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    single, double = AttentionVisitor(), AttentionVisitor()
    run_texts(model, TEXTS, single)
    run_texts(model, TEXTS, double, dtype=torch.float64)
    for one, two in zip(single.layers, double.layers, strict=True):
        for name in one:
            torch.testing.assert_close(one[name].double(), two[name].double(), rtol=1e-4, atol=1e-5)


def test_the_predicted_spread_is_that_of_the_form(tmp_path: Path) -> None:
    """The formula over W_Q, W_K and the moments of the normed inputs is the same number."""
    model = opened(make(tmp_path))
    seen = Seen()
    run_texts(model, TEXTS, seen, dtype=torch.float64)
    layer = model.shape.layers - 1
    x = seen.residuals[layer - 1].double()
    bare = x / x.square().mean(-1, keepdim=True).add(model.config.rms_norm_eps).sqrt()
    second, centred = bare.T @ bare / len(bare), bare - bare.mean(0)
    covariance = centred.T @ centred / len(bare)
    w_q, w_k = (model.weights.heads(layer, part).double() for part in "qk")
    for head in range(6):
        q, k = w_q[head], w_k[head // 3]
        square = (q @ second @ q.T @ k @ covariance @ k.T).trace() / 8
        assert float(seen.layers[layer]["score_std_predicted"][head]) == pytest.approx(
            math.sqrt(float(square)), rel=1e-5
        )


def test_gaussian_scores_lose_half_their_variance_in_entropy() -> None:
    """Within .02 nats to s = 1.5 over 1,024 keys, with the spread that each sample has."""
    generator = torch.Generator().manual_seed(0)
    keys, samples, heads = 1024, 512, 4
    for wanted in (0.5, 1.0, 1.5):
        scores = torch.randn(keys, samples, generator=generator, dtype=torch.float64) * wanted
        p = scores.softmax(0)
        entropy, own = -(p * p.log()).sum(0), scores.std(0, unbiased=False)
        beyond = float((entropy - math.log(keys) + own.square() / 2).mean())
        assert abs(beyond) < 0.02
        # the figures of the section, of the first of these samples
        q, k = torch.ones(keys, heads, 1, dtype=torch.float64), scores[:, :heads, None].contiguous()
        seen = Attended(0, ((0, keys),), q, k, q, k, 1.0, None, None)
        bits = attention.measure_text(seen, 0, keys).entropy[-1]
        torch.testing.assert_close(bits.double() * math.log(2), entropy[:heads], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(attention.score_figures(seen)[0][-1], own[:heads])
        torch.testing.assert_close(attention.predicted_std(seen), own[:heads])


def test_the_predicted_spread_follows_the_measured() -> None:
    """r = .999 over heads of many scales and ranks whose inputs have a mean and directions of their own."""
    generator = torch.Generator().manual_seed(0)
    tokens, hidden, heads, width = 600, 64, 32, 16
    mix = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64) / hidden**0.5
    x = torch.randn(tokens, hidden, generator=generator, dtype=torch.float64) @ mix + 0.5
    x = x / x.square().mean(1, keepdim=True).sqrt()
    scale = torch.logspace(-0.7, 0.7, heads, dtype=torch.float64)[:, None, None]
    drop = torch.rand(heads, width, 1, generator=generator) < torch.linspace(0, 0.8, heads)[:, None, None]
    w_q, w_k = (
        torch.randn(heads, width, hidden, generator=generator, dtype=torch.float64) / hidden**0.5
        for _ in range(2)
    )
    w_q = scale * w_q.masked_fill(drop, 0.0)
    q, k = (torch.einsum("td,hwd->thw", x, w) for w in (w_q, w_k))
    seen = Attended(0, ((0, tokens),), q, k, q, k, width**-0.5, None, None)
    measured = attention.score_figures(seen)[0][tokens // 2 :].mean(0)
    predicted = attention.predicted_std(seen)
    assert float(np.corrcoef(measured, predicted)[0, 1]) > 0.999
    assert float((measured / predicted).mean()) == pytest.approx(1.0, abs=0.05)


def test_the_section_over_the_shipped_texts(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    found = attention.measure(model, QUIET, {})
    texts = read_texts(model, QUIET)
    assert found.tokens == sum(len(text.ids) for text in texts) <= 300
    assert found.queries == found.tokens - found.texts
    assert len(found.entropy) == 4
    assert all(len(layer) == 6 for layer in found.entropy)
    assert "even over all keys" in " ".join(attention.sentences(found))


def test_layers_are_chosen_that_follow_all() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(500, 2))
    noise = rng.normal(size=(4, 500, 2))
    signals = common + noise * np.array([3.0, 0.1, 3.0, 3.0])[:, None, None]
    signals[:, :, 1] = 1.0  # a signal that does not vary
    found = choose_layers(signals)
    whole = signals[:, :, 0].mean(0)
    alone = [np.corrcoef(signals[layer, :, 0], whole)[0, 1] for layer in range(4)]
    assert found.order[0] == int(np.argmax(alone))
    assert found.correlation[0] == pytest.approx(max(alone))
    assert sorted(found.order) == [0, 1, 2, 3]
    assert found.correlation[-1] == pytest.approx(1.0)
