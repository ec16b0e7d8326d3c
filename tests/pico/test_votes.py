"""Votes over several replies: whose answer wins, what is measured, on inputs that were held out."""

import math
from pathlib import Path

import pytest
import torch

from entropick_pico import evaluate, grammar, tokenizer
from entropick_pico.recipe import Recipe
from entropick_pico.train import new_model, save
from entropick_pico.votes import COUNTS, SETTINGS, Reply, Setting, draw, examples, gains, table, verdict


def test_the_most_frequent_answer_wins_and_doubt_takes_weight_away() -> None:
    replies = [Reply("7", 9, 5.0), Reply("7", 9, 4.0), Reply("8", 9, 0.5)]
    assert verdict(replies, weighted=False) == "7"
    assert verdict(replies, weighted=True) == "8"
    assert verdict([Reply("1", 2, 3.0), Reply("2", 2, 3.0)], weighted=False) == "1"


@pytest.mark.parametrize(("task", "size"), [("sums", 7), ("mix", 5), ("latin", 9)])
def test_examples_have_their_size_and_are_held_out(task: str, size: int) -> None:
    for example in examples(task, size, 5):
        assert grammar.held_out(example.key or "")
        assert grammar.half(example.user) == "check"
        assert evaluate._size(example) == str(size)


def test_a_model_without_knowledge_has_no_gain_and_no_excess(tmp_path: Path) -> None:
    recipe = Recipe(hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64)
    made = tokenizer.build(samples=300)
    model = new_model(recipe, made)
    torch.nn.init.zeros_(model.model.norm.weight)  # every token is equally likely
    save(model, made, tmp_path, [])
    model, tok = evaluate.load(tmp_path)
    (example,) = examples("mix", 3, 1)
    (reply,) = draw(model, tok, [evaluate.prompt(tok, [example])], Setting(1.0))
    assert reply.excess == pytest.approx(0.0, abs=1e-3)
    found = gains(model, tok, "mix", 3, 2)
    assert len(found) == len(SETTINGS) * len(COUNTS)
    assert all(gain.greedy == gain.vote == gain.weighted == 0 for gain in found)
    assert all(math.isfinite(gain.tokens) and gain.tokens > 0 for gain in found)
    assert table(found).count("\n") == len(found) + 1
