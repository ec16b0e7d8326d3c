"""Tasks whose steps may come in any order: the chances of texts, the checks, one solution, the table."""

import math
import random
import re
from collections.abc import Callable

import pytest

from entropick_pico import grammar
from entropick_pico.grammar import latin, merging
from entropick_pico.grammar.reply import Reply
from entropick_pico.grammar.world import COLORS, PALETTE

KINDS = ("sums", "mix", "latin", "sums_long", "mix_long", "latin_long")
SQUARE = tuple("1234341221434321")
GRID = "0234341221404301"

# steps, and how many texts they may be written as
FREE: dict[str, tuple[Callable[[Reply], Reply], int]] = {
    # three pairs in two orders, then two orders
    "sums": (lambda reply: merging.add_up(reply, ["12", "90", "47"]), 12),
    # the same number twice: 12+12, 12+90 and 90+12 first; both orders of two different numbers then
    "sums_twice": (lambda reply: merging.add_up(reply, ["12", "12", "90"]), 6),
    "mix": (lambda reply: merging.stir(reply, ["red", "teal", "gold"]), 12),
    "latin": (lambda reply: latin.fill(reply, SQUARE, GRID), 6),
}


def draw(kind: str, n: int, seed: int = 1) -> list[grammar.Example]:
    rng = random.Random(seed)
    return [grammar.sample(rng, kind, "check") for _ in range(n)]


@pytest.mark.parametrize("name", FREE)
def test_the_chances_of_all_texts_add_up_to_certainty(name: str) -> None:
    write, count = FREE[name]
    chances = {}
    for seed in range(400):
        example = write(Reply(random.Random(seed))).finish("", "")
        text = example.assistant
        follows = [
            next(
                p
                for alternative, p in choice.alternatives.items()
                if text.startswith(alternative, choice.offset)
            )
            for choice in example.choices
        ]
        chances[text] = math.prod(follows)
    assert len(chances) == count
    assert sum(chances.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_grammar_writes_is_faultless(kind: str) -> None:
    for example in draw(kind, 60):
        assert example.kind == kind
        assert grammar.right(example, example.assistant)
        assert grammar.faultless(example, example.assistant)


@pytest.mark.parametrize("kind", KINDS)
def test_one_wrong_character_is_a_fault(kind: str) -> None:
    rng = random.Random(3)
    found = 0
    for example in draw(kind, 20):
        text = example.assistant
        for at in [m.start() for m in re.finditer(r"\d|(?<= )[a-z]+(?= [+=;])", text)][:12]:
            if text[at].isdigit():
                broken = text[:at] + rng.choice([d for d in "0123456789" if d != text[at]]) + text[at + 1 :]
            else:
                word = re.match(r"[a-z]+", text[at:])
                assert word is not None
                other = rng.choice([color for color in COLORS if color != word[0]])
                broken = text[:at] + other + text[at + len(word[0]) :]
            found += 1
            assert not grammar.faultless(example, broken), broken
    assert found > 50


def test_any_order_is_accepted_and_no_step_may_be_missing_or_doubled() -> None:
    example = next(e for e in draw("latin", 20) if len(e.gold or "") >= 5)
    steps, _, end = example.assistant.partition(". ")
    parts = steps.removeprefix("Fill ").split("; ")
    assert grammar.faultless(example, "Fill " + "; ".join(reversed(parts)) + ". " + end)
    assert not grammar.faultless(example, "Fill " + "; ".join(parts[1:]) + ". " + end)
    assert not grammar.faultless(example, "Fill " + "; ".join([*parts, parts[0]]) + ". " + end)
    assert not grammar.faultless(example, "Fill " + "; ".join(parts) + ".")


def test_a_number_may_be_taken_as_often_as_it_is_there() -> None:
    assert merging.merged("sums", ["07", "07", "90"], "07+07=14; 14+90=04")
    assert not merging.merged("sums", ["07", "08", "90"], "07+07=14; 14+90=04")
    assert not merging.merged("sums", ["07", "07", "90"], "07+07=14")
    assert not merging.merged("sums", ["07", "07", "90"], "07+07+90=04")


def test_replies_of_other_kinds_have_no_steps_to_check() -> None:
    example = grammar.Example("", "", "sort", "1 2", key="1 2")
    with pytest.raises(ValueError, match="no steps"):
        grammar.faultless(example, "Take 1. The answer is 1 2.")


def test_a_puzzle_has_one_solution() -> None:
    assert len(latin.SQUARES) == 576
    for example in draw("latin", 40):
        _, _, grid = (example.key or "").partition(" ")
        (square,) = latin.solutions(grid)
        assert (
            "".join(digit for digit, given in zip(square, grid, strict=True) if given == "0") == example.gold
        )
    assert len(latin.solutions("0" * 16)) == 576
    assert latin.solutions("11" + "0" * 14) == []


def test_blending_is_an_abelian_group() -> None:
    assert sorted(PALETTE) == sorted(COLORS)
    for a in COLORS:
        assert {merging.blend(a, b) for b in COLORS} == set(COLORS)
        for b in COLORS:
            assert merging.blend(a, b) == merging.blend(b, a)
            for c in COLORS[:4]:
                assert merging.blend(merging.blend(a, b), c) == merging.blend(a, merging.blend(b, c))


@pytest.mark.parametrize("kind", KINDS)
def test_a_free_choice_has_the_entropy_of_what_is_left(kind: str) -> None:
    for example in draw(kind, 10):
        # the tens and the ones of a number, the row and the column of a cell: together one choice
        total = sum(
            -sum(p * math.log2(p) for p in choice.alternatives.values())
            for choice in example.choices
            if choice.kind.endswith(("_result", "_digit", "_answer"))
        )
        assert total == 0
    (first, second, *_) = draw("latin_long", 1)[0].choices
    assert len(second.alternatives) <= 4
    assert sum(first.alternatives.values()) == pytest.approx(1)
