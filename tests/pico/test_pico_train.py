"""The recipe on a tiny scale: the loss falls, the truths enter the loss, the checkpoint loads."""

import hashlib
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from entropick_pico import evaluate, grammar, tokenizer, votes
from entropick_pico.batches import Place, collate, expected_loss, pool, rows, stream
from entropick_pico.card import compose
from entropick_pico.forward import supervised_logits
from entropick_pico.grammar.reply import Choice
from entropick_pico.optim import orthogonalise
from entropick_pico.recipe import STAGES, Recipe
from entropick_pico.train import STATE, new_model, train

# One stage only: a kind that comes in late would lift the loss again.
TINY = Recipe(
    steps=18,
    batch_tokens=1024,
    hidden=32,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=64,
    warmup=2,
    lr=1e-2,
    first_stage=1.0,
    second_stage=1.0,
)


def test_a_short_run_learns_and_saves(tmp_path: Path) -> None:
    log = train(TINY, tmp_path, every=6, watched=2)
    entries = [entry for entry in log if "loss" in entry]
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.5
    assert json.loads((tmp_path / "train_log.json").read_text()) == log
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    model, tok = evaluate.load(tmp_path)
    assert model.config.eos_token_id == tok.eos_token_id
    assert model.generation_config.pad_token_id == tok.pad_token_id
    errors = evaluate.entropy_errors(model, tok, 1)
    assert errors["uniform256"].truth == pytest.approx(8.0)
    gains = votes.gains(model, tok, "mix", 3, 1)
    card = compose(tmp_path, evaluate.accuracies(model, tok, 1), errors, gains)
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() in card
    assert "| accuracy of sort | 1.000 | 0.000 | worse |" in card
    assert "| mix/3 | 1 |" in card


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    short = replace(TINY, steps=3)
    first, second = (
        train(short, tmp_path / "a", every=3, watched=2),
        train(short, tmp_path / "b", every=3, watched=2),
    )
    assert first[1]["loss"] == second[1]["loss"]


def test_a_run_in_parts_ends_with_the_bits_of_a_run_in_one_go(tmp_path: Path) -> None:
    whole = replace(TINY, steps=8, first_stage=0.3, second_stage=0.7)
    weights = {}
    train(whole, tmp_path / "whole", every=3, watched=2)
    for until in (0, 0.5, 1):
        log = train(whole, tmp_path / "parts", every=3, watched=2, until=until)
        weights[until] = (tmp_path / "parts" / "model.safetensors").read_bytes()
        assert (tmp_path / "parts" / STATE).exists() == (until < 1)
    assert weights[1] == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert len(set(weights.values())) == 3
    assert [entry["step"] for entry in log if "loss" in entry] == [3, 4, 6, 8]
    train(whole, tmp_path / "half", every=100, watched=2, until=0.5)
    assert weights[0.5] == (tmp_path / "half" / "model.safetensors").read_bytes()


def test_an_interrupted_run_goes_on_from_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(TINY, steps=6)
    rates = Recipe.rates

    def cut(self: Recipe, step: int) -> tuple[float, float]:
        if step == 4:
            raise KeyboardInterrupt
        return rates(self, step)

    monkeypatch.setattr(Recipe, "rates", cut)
    with pytest.raises(KeyboardInterrupt):
        train(whole, tmp_path / "cut", every=3, watched=2)
    monkeypatch.undo()
    log = train(whole, tmp_path / "cut", every=3, watched=2)
    assert [entry["step"] for entry in log if "loss" in entry] == [3, 6]
    train(whole, tmp_path / "whole", every=3, watched=2)
    one, other = (tmp_path / name / "model.safetensors" for name in ("cut", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_a_state_of_another_recipe_or_of_a_later_step_is_refused(tmp_path: Path) -> None:
    train(replace(TINY, steps=4), tmp_path, watched=2, until=0.5)
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(TINY, steps=5), tmp_path, watched=2)
    with pytest.raises(ValueError, match="at step 2, past the 1"):
        train(replace(TINY, steps=4), tmp_path, watched=2, until=0.25)
    with pytest.raises(ValueError, match="from 0 to 1"):
        train(replace(TINY, steps=4), tmp_path, watched=2, until=2)


def test_the_training_pass_equals_the_model() -> None:
    tok = tokenizer.build(samples=200)
    model = new_model(replace(TINY, layers=2), tok)
    (batch, *_) = pool(tokenizer.Encoder(tok), random.Random(1), 0, 512, STAGES[0])
    whole = model(input_ids=batch.tokens).logits[batch.rows, batch.columns]
    assert torch.allclose(supervised_logits(model, batch), whole, atol=1e-6)


def test_the_loss_is_the_true_cross_entropy_at_labels() -> None:
    encoder = tokenizer.Encoder(tokenizer.build(samples=200))
    coin = grammar.Example(
        "Toss.", "heads", "coin", choices=(Choice(0, {"heads": 0.5, "tails": 0.5}, "coin"),)
    )
    batch = collate([encoder.encode_talk([coin])], pad=0)
    logits = torch.zeros(len(batch.targets), 50_000)
    assert expected_loss(logits, batch).item() == pytest.approx(math.log(50_000), rel=1e-5)
    logits[0, encoder.ids("heads")[0]] = logits[0, encoder.ids("tails")[0]] = 100.0
    logits[1:].scatter_(1, batch.targets[1:, None], 100.0)
    assert expected_loss(logits, batch).item() == pytest.approx(math.log(2) / len(batch.targets), rel=1e-4)


def test_batches_keep_to_their_size() -> None:
    encoder = tokenizer.Encoder(tokenizer.build(samples=200))
    batches = stream(encoder, replace(TINY, batch_tokens=2048), 0, 0, Place())
    for _ in range(TINY.steps):
        batch, _ = next(batches)
        assert batch.tokens.numel() <= 2048
    assert all(len(row.ids) == len(row.loss) for row in rows(encoder, random.Random(2), STAGES[2], 20))


def test_data_go_on_from_any_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropick_pico.batches._POOL", 40)
    encoder = tokenizer.Encoder(tokenizer.build(samples=200))
    recipe = replace(TINY, steps=30, batch_tokens=512, first_stage=0.4, second_stage=0.6)
    whole = list(stream(encoder, recipe, 0, 0, Place()))
    assert {place.stage for _, place in whole} == {0, 1, 2}
    assert max(place.pool for _, place in whole) > 0
    for start in range(1, recipe.steps):
        batch, place = next(stream(encoder, recipe, 0, start, whole[start - 1][1]))
        assert place == whole[start][1]
        assert torch.equal(batch.tokens, whole[start][0].tokens)


def test_the_curriculum_widens() -> None:
    recipe = Recipe()
    stages = [STAGES[recipe.stage(int(p * recipe.steps))] for p in (0.0, 0.2, 0.9)]
    first, second, last = (set(stage.weights) for stage in stages)
    assert first < second < last == set(grammar.KINDS)
    assert 0 < stages[0].tools < stages[1].tools < stages[2].tools


def test_the_rates_warm_up_stay_and_decay() -> None:
    recipe = Recipe()
    assert recipe.rates(0)[0] == pytest.approx(recipe.lr / recipe.warmup)
    assert recipe.rates(recipe.warmup) == recipe.rates(recipe.steps // 3) == (recipe.lr, recipe.muon_lr)
    assert recipe.rates(recipe.steps - 1)[1] == pytest.approx(recipe.muon_lr / 100)


def test_orthogonalising_evens_out_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 12)))
    assert values.min() > 0.5
    assert values.max() < 1.5
