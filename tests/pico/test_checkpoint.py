"""The shipped checkpoint: it loads, it is the one the card describes, it answers."""

import hashlib
import json
import random
import re
from typing import Any

import pytest
from transformers import LlamaConfig

from entropick_pico import evaluate, grammar, lexicon, model_path, template, tokenizer


def test_size_and_files() -> None:
    folder = model_path()
    names = {path.name for path in folder.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"}
    needed |= {"tokenizer_config.json", "chat_template.jinja", "train_log.json", "lexicon.json"}
    assert needed <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000


def test_the_lexicon_is_the_grammar_s() -> None:
    assert json.loads((model_path() / "lexicon.json").read_text()) == lexicon.categories()


def test_the_card_names_these_weights_and_this_tokenizer() -> None:
    card = (model_path() / "MODEL_CARD.md").read_text()
    for name in ("model.safetensors", "tokenizer.json"):
        digest = hashlib.sha256((model_path() / name).read_bytes()).hexdigest()
        assert re.search(rf"`{re.escape(name)}`.*{digest}", card)


def test_engines_that_know_one_place_of_the_rotary_base_alone_read_the_same() -> None:
    config = json.loads((model_path() / "config.json").read_text())
    loaded = LlamaConfig.from_pretrained(model_path())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert loaded.rope_parameters["rope_theta"] == config["rope_theta"] == 10000.0


def test_it_answers_facts_and_small_talk() -> None:
    model, tok = evaluate.load(model_path())
    rng = random.Random(8)
    examples = [grammar.sample(rng, kind, "check") for kind in ("capital", "flag") for _ in range(10)]
    replies = evaluate.greedy(model, tok, [example.user for example in examples])
    right = [grammar.final_answer(r) == e.gold for r, e in zip(replies, examples, strict=True)]
    assert sum(right) >= 19
    assert evaluate.greedy(model, tok, ["Hello!", "Thank you!"]) == [
        "Hello! How can I help you?",
        "You are welcome!",
    ]


def test_its_entropy_is_near_the_truth_where_the_card_says_so() -> None:
    model, tok = evaluate.load(model_path())
    errors = evaluate.entropy_errors(model, tok, 8)
    for label in (
        "fact",
        "uniform2",
        "uniform6",
        "uniform16",
        "uniform64",
        "uniform256",
        "spread",
        "mixture",
    ):
        assert errors[label].absolute < 0.25, label


def test_a_forced_clarifying_question_is_carried_on_and_ended() -> None:
    model, tok = evaluate.load(model_path())
    prompt = tok.apply_chat_template(
        [{"role": "user", "content": "What color is it?"}], tokenize=False, add_generation_prompt=True
    )
    batch = tok(prompt + grammar.CLARIFY, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**batch, do_sample=False, max_new_tokens=20)
    assert out[0, -1].item() == tok.eos_token_id


@pytest.mark.usefixtures("current_recipe")
def test_it_calls_a_tool_and_answers_from_its_result() -> None:
    model, tok = evaluate.load(model_path())
    rng = random.Random(9)
    talks = [grammar.tool_talk(rng, "check", "call") for _ in range(20)]
    for upto, name in ((1, "call"), (2, "report")):
        replies = evaluate.complete(model, tok, [evaluate.prompt(tok, talk[:upto]) for talk in talks])
        marks = [grammar.right(talk[upto - 1], reply) for talk, reply in zip(talks, replies, strict=True)]
        assert sum(marks) >= 17, name


@pytest.mark.usefixtures("current_recipe")
def test_its_template_and_its_parser_are_those_of_the_code() -> None:
    tok: Any = tokenizer.load(model_path())
    assert tok.chat_template == template.CHAT
    assert tok.response_template == dict(template.RESPONSE)
