"""Entropies from logits in pieces against known answers, and every layer of a model against float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from entropick_lens.forward import run_texts
from entropick_lens.layers import entropy
from entropick_lens.layers.entropies import Entropies, expansion, resample, windows
from entropick_lens.layers.entropy import ResidualVisitor, lens_entropies, spread_positions
from entropick_lens.report import draw_svg
from entropick_lens.texts import Text, read_texts
from entropick_sampler.layer_entropy import lens_entropy

from .support import GOLDEN, QUIET, make, opened

CASE = GOLDEN["10_entropy_lens"]
ALL = (0.0, 0.5, 1.0, 2.0, math.inf)


def measured(logits: torch.Tensor, pieces: int, **given: Any) -> Entropies:
    found = Entropies(len(logits), ALL, **given)
    for piece in logits.split(pieces, dim=1):
        found.add(piece)
    return found


@pytest.mark.parametrize("pieces", [1, 3, 4])
def test_entropies_of_every_order(pieces: int) -> None:
    found = measured(torch.tensor(CASE["layer_logits"], dtype=torch.float64), pieces)
    assert found.renyi(1.0).tolist() == pytest.approx(CASE["profile_nats"], abs=1e-9)
    assert (found.renyi(1.0) / math.log(2)).tolist() == pytest.approx(CASE["profile_bits"], abs=1e-9)
    for order, wanted in CASE["renyi"].items():
        assert found.renyi(float(order)).tolist() == pytest.approx(wanted, abs=1e-9), order


def test_expansion_and_resampling() -> None:
    profile = np.array(CASE["profile_nats"])
    assert np.diff(profile).tolist() == pytest.approx(CASE["delta"], abs=1e-9)
    assert resample(profile, 7).tolist() == pytest.approx(CASE["resampled_to_7"], abs=1e-9)
    assert resample(profile, 4).tolist() == pytest.approx(profile.tolist())
    assert resample([2.0], 3).tolist() == [2.0, 2.0, 2.0]
    up, down, rise, fall = expansion(np.array([[1.0, 3.0, 3.0 + 5e-7, 0.5], profile]))
    assert up.tolist() == [1, 0]
    assert down.tolist() == [1, 3]
    assert rise.tolist() == pytest.approx([2.0, 0.0])
    assert fall.tolist() == pytest.approx([2.5 + 5e-7, -sum(CASE["delta"])])


@pytest.mark.parametrize("shift", [0.0, -3e4, 3e4])
def test_pieces_in_any_order_and_any_scale_give_the_same(shift: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 500, dtype=torch.float64) * torch.tensor(
        [[0.0], [1.0], [5.0], [50.0], [1.0], [9.0]]
    )
    logits[4, :250] += 700.0  # the largest logits come first, or last
    logits[5] = logits[5].sort().values
    of = torch.tensor([5, 5, 5, 5, 5, 5])
    p = logits.softmax(1)
    safe = p.clamp(min=1e-300)
    for pieces in (1, 7, 500):
        found = measured(logits + shift, pieces, of=of)
        shannon = -(p * safe.log()).sum(1)
        torch.testing.assert_close(found.renyi(1.0), shannon, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.renyi(2.0), -(p * p).sum(1).log(), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.renyi(0.5), 2 * safe.sqrt().sum(1).log(), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.renyi(math.inf), -p.amax(1).log(), rtol=1e-8, atol=1e-9)
        logs = logits.log_softmax(1)
        kl = (p[5] * (logs[5] - logs)).sum(1)
        torch.testing.assert_close(found.divergence(), kl, rtol=1e-7, atol=1e-7)
        assert float(found.divergence()[5]) == pytest.approx(0.0, abs=1e-7)


def test_other_orders_and_orders_that_were_not_asked_for() -> None:
    found = Entropies(1, (3.0, 5.0))
    found.add(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64))
    p = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).softmax(0)
    for order in (3.0, 5.0):
        assert float(found.renyi(order)) == pytest.approx(float((p**order).sum().log()) / (1 - order))
    with pytest.raises(KeyError):
        found.renyi(2.0)
    with pytest.raises(ValueError, match="no divergence"):
        found.divergence()


def test_windows_of_tokens() -> None:
    values = np.arange(10.0).reshape(5, 2)
    assert windows(values, 1).tolist() == values.mean(0).tolist()
    assert windows(values, 2).tolist() == [*values[:2].mean(0), *values[2:].mean(0)]
    assert windows(values[:1], 3).tolist() == [0.0, 1.0] * 3


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("llama", {}), ("qwen3", {"tie_word_embeddings": True}), ("gemma2", {"final_logit_softcapping": 3.0})],
)
def test_every_layer_against_the_reference(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    model = opened(make(tmp_path, kind=kind, **sizes))
    text = Text((1, *range(50, 70)), 6)
    rows = spread_positions(text)
    assert rows == list(range(5, 20))
    visitor = ResidualVisitor(torch.tensor(rows))
    run_texts(model, [text], visitor, dtype=torch.float64)
    found, kl = lens_entropies(model, torch.stack(visitor.residuals, 1), entropy.ORDERS, QUIET)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        answer = theirs(torch.tensor([text.ids]), output_hidden_states=True)
        last = answer.logits[0, rows].log_softmax(-1)
        for layer in range(4):
            if layer < 3:
                logits = theirs.lm_head(theirs.model.norm(answer.hidden_states[layer + 1][0, rows]))
                cap = sizes.get("final_logit_softcapping")
                logits = logits if cap is None else torch.tanh(logits / cap) * cap
            else:
                logits = answer.logits[0, rows]  # the last hidden state is normed already
            logs = logits.log_softmax(-1)
            torch.testing.assert_close(
                found[1.0][:, layer], -(logs.exp() * logs).sum(-1), rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                kl[:, layer], (last.exp() * (last - logs)).sum(-1), rtol=1e-4, atol=1e-5
            )
    if kind != "gemma2":  # the live telemetry's quantity, in bits
        head = torch.cat([rows for _, rows in model.weights.head_rows()])
        residual = torch.stack(visitor.residuals)
        bits = lens_entropy(residual, model.weights.final_norm(), head, model.config.rms_norm_eps)
        assert (found[1.0] / math.log(2)).T.numpy() == pytest.approx(bits, rel=1e-9)


def test_the_section(tmp_path: Path) -> None:
    model = opened(make(tmp_path))
    found = entropy.measure(model, replace(QUIET, windows=2), {})
    assert len(found.mean) == 4
    assert all(len(profile) == 8 for profile in found.profiles)
    assert found.texts == len(found.profiles)
    assert len(found.example) == len(found.example_tokens)
    assert found.expansion_count + found.pruning_count == pytest.approx(3.0)
    assert found.expansion_sum - found.pruning_sum == pytest.approx(found.mean[-1] - found.mean[0])
    assert all(
        low <= middle <= high for low, middle, high in zip(found.low, found.median, found.high, strict=True)
    )
    assert len(found.renyi) == len(found.renyi_orders) == 4
    quick = entropy.measure(model, replace(QUIET, quick=True), {})
    assert quick.positions == sum(min(16, len(t.generating)) for t in read_texts(model, QUIET))
    assert quick.positions < found.positions
    # the higher the order, the lower the entropy
    assert all(a >= b >= c for a, b, c in zip(found.renyi[0], found.mean, found.renyi[1], strict=True))
    assert "even odds over all 1,984 tokens would be 10.95" in entropy.sentences(found)[0]
    assert all(draw_svg(plot).startswith("<svg") for plot in entropy.plots(found))
