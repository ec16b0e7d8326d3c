"""The tokenizer: round trip, single tokens, chat template, labelled positions."""

import random
from functools import lru_cache

import pytest

from entropick_pico import grammar, model_path, tokenizer
from entropick_pico.grammar import world


@lru_cache
def encoder() -> tokenizer.Encoder:
    return tokenizer.Encoder(tokenizer.load(model_path()))


@pytest.mark.parametrize("text", ["Sort 4 1 9.", "naïve — 東京 🙂\n\ttabs  and blanks ", "x=1234;y", ""])
def test_text_survives_the_round_trip(text: str) -> None:
    tok = tokenizer.load(model_path())
    assert tok.decode(encoder().ids(text)) == text


def test_the_vocabulary_is_small_and_has_the_markers() -> None:
    tok = tokenizer.load(model_path())
    assert len(tok) <= tokenizer.VOCABULARY
    assert tok.eos_token == tokenizer.END
    assert tok.pad_token == tokenizer.PAD
    for marker in (tokenizer.PAD, tokenizer.END_OF_TEXT, tokenizer.START, tokenizer.END):
        assert len(encoder().ids(marker)) == 1


def test_digits_stand_alone() -> None:
    tok = tokenizer.load(model_path())
    assert [tok.decode([token]) for token in encoder().ids("347 58")] == ["3", "4", "7", " 5", "8"]


@pytest.mark.parametrize(
    "items", [world.TOWNS, world.NAMES, world.COLORS, world.OBJECTS, world.PLACES, world.ANIMALS]
)
def test_the_words_of_choices_are_single_tokens(items: tuple[str, ...]) -> None:
    assert all(len(encoder().ids(" " + item)) == 1 for item in items)


def test_the_template_writes_chatml() -> None:
    tok = tokenizer.load(model_path())
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye."},
    ]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_training_sees_what_the_template_writes() -> None:
    tok = tokenizer.load(model_path())
    talk = grammar.conversation(random.Random(1), turns=3)
    messages = [message for example in talk for message in example.messages]
    text = tok.apply_chat_template(messages, tokenize=False)
    assert encoder().encode_talk(talk).ids == encoder().ids(text)


def test_labels_point_at_the_token_they_are_about() -> None:
    rng = random.Random(3)
    for _ in range(500):
        talk = grammar.conversation(rng, interruptions=0.2)
        row = encoder().encode_talk(talk)
        assert len(row.truths) == sum(len(example.choices) for example in talk)
        for at, ids, probabilities, _ in row.truths:
            assert row.loss[at]
            assert row.ids[at] in ids
            assert abs(sum(probabilities) - 1) < 1e-9


def test_forced_text_carries_no_loss() -> None:
    rng = random.Random(6)
    example = grammar.interrupt(rng, grammar.sample(rng, "town"))
    row = encoder().encode_talk([example])
    which = encoder().ids("Which")[0], encoder().ids(" Which")[0]
    (at,) = (i for i, token in enumerate(row.ids) if token in which)
    assert not any(row.loss[at : at + len(encoder().ids(grammar.CLARIFY))])


@pytest.mark.usefixtures("current_recipe")
def test_building_again_gives_the_shipped_tokenizer() -> None:
    again = tokenizer.build()
    assert again.get_vocab() == tokenizer.load(model_path()).get_vocab()
