"""The recipe on a tiny scale: the loss falls, the truths enter the loss, the checkpoint loads."""

import hashlib
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from entropick_pico import evaluate, grammar, tokenizer
from entropick_pico.batches import collate, expected_loss, rows, stage_weights, stream
from entropick_pico.card import compose
from entropick_pico.grammar.reply import Choice
from entropick_pico.optim import orthogonalise
from entropick_pico.train import Recipe, train

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
    early_lr=1e-2,
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
    card = compose(tmp_path, evaluate.accuracies(model, tok, 1), errors)
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() in card


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    short = replace(TINY, steps=3)
    first, second = (
        train(short, tmp_path / "a", every=3, watched=2),
        train(short, tmp_path / "b", every=3, watched=2),
    )
    assert first[1]["loss"] == second[1]["loss"]


def test_a_resumed_run_goes_on_at_its_step(tmp_path: Path) -> None:
    class Cut(Recipe):
        def rates(self, step: int) -> tuple[float, float]:
            if step == 4:
                raise KeyboardInterrupt
            return super().rates(step)

    whole = replace(TINY, steps=6)
    with pytest.raises(KeyboardInterrupt):
        train(Cut(**vars(whole)), tmp_path, every=3, watched=2)
    log = train(whole, tmp_path, every=3, watched=2, resume=tmp_path / "state.pt")
    assert [entry["step"] for entry in log if "loss" in entry] == [3, 6]


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
    batches = stream(encoder, random.Random(1), 0, 2048, grammar.WEIGHTS)
    for _ in range(20):
        assert next(batches).tokens.numel() <= 2048
    assert all(len(row.ids) == len(row.loss) for row in rows(encoder, random.Random(2), grammar.WEIGHTS, 20))


def test_the_curriculum_widens() -> None:
    recipe = Recipe()
    stages = [stage_weights(p, recipe.first_stage, recipe.second_stage) for p in (0.0, 0.2, 0.9)]
    assert set(stages[0]) < set(stages[1]) < set(stages[2]) == set(grammar.KINDS)


def test_the_rates_warm_up_step_down_and_decay() -> None:
    recipe = Recipe()
    assert recipe.rates(0)[0] == pytest.approx(recipe.early_lr / recipe.warmup)
    assert recipe.rates(recipe.steps // 5) == (recipe.early_lr, recipe.early_muon_lr)
    assert recipe.rates(recipe.steps // 3) == (recipe.lr, recipe.muon_lr)
    assert recipe.rates(recipe.steps - 1)[1] == pytest.approx(recipe.muon_lr / 100)


def test_orthogonalising_evens_out_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 12)))
    assert values.min() > 0.5
    assert values.max() < 1.5
