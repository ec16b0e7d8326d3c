"""The grammar: probabilities, offsets, splits, seeds."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

import entropick_pico
from entropick_pico import data, grammar

TWINS = {"ambiguous8": 8, "ambiguous16": 16, "ambiguous32": 32}
HELD_OUT = (
    "answerable",
    "lookup",
    "sort",
    "add",
    "add_steps",
    "add_direct",
    "parity",
    "parity_steps",
    "count",
    "sums",
    "mix",
    "latin",
    "json_fields",
    "repeat",
)


def draw(kind: str, split: grammar.Split, n: int, seed: int = 0) -> list[grammar.Example]:
    rng = random.Random(seed)
    return [grammar.sample(rng, kind, split) for _ in range(n)]


@pytest.mark.parametrize("kind", grammar.KINDS)
def test_labels_are_distributions_over_what_follows(kind: str) -> None:
    for example in draw(kind, "train", 60):
        assert example.user
        assert example.assistant
        for choice in example.choices:
            rest = example.assistant[choice.offset :]
            assert math.isclose(sum(choice.alternatives.values()), 1.0, abs_tol=1e-9)
            assert all(p > 0 for p in choice.alternatives.values())
            assert any(rest.startswith(text) for text in choice.alternatives)


@pytest.mark.parametrize("kind", grammar.KINDS)
def test_prompts_are_worded_in_many_ways(kind: str) -> None:
    assert len({example.user for example in draw(kind, "train", 600)}) >= 60


@pytest.mark.parametrize("kind", grammar.KINDS)
def test_the_seed_decides_everything(kind: str) -> None:
    assert draw(kind, "check", 5, seed=3) == draw(kind, "check", 5, seed=3)


@pytest.mark.parametrize("kind", grammar.KINDS)
def test_calibration_and_check_share_no_prompt(kind: str) -> None:
    calibration = {example.user for example in draw(kind, "calibration", 100)}
    assert calibration.isdisjoint(example.user for example in draw(kind, "check", 100, seed=1))


@pytest.mark.parametrize("kind", HELD_OUT)
def test_held_out_inputs_are_kept_from_training(kind: str) -> None:
    trained = {example.key for example in draw(kind, "train", 200)}
    for example in draw(kind, "check", 50):
        assert example.key is not None
        assert grammar.held_out(example.key)
        assert example.key not in trained


def test_choices_come_up_as_often_as_they_should() -> None:
    fork = [example.assistant.startswith("Step") for example in draw("parity", "train", 3000)]
    assert abs(sum(fork) / len(fork) - 0.4) < 0.04
    home = draw("home", "train", 3000)
    likely = [
        max(e.choices[0].alternatives, key=e.choices[0].alternatives.__getitem__) in e.assistant for e in home
    ]
    assert abs(sum(likely) / len(likely) - 0.85) < 0.03


def test_an_ambiguous_question_looks_like_a_plain_choice_with_one_more_item() -> None:
    seen = set()
    for example in draw("ambiguous", "train", 200):
        first = example.choices[0]
        seen.add(first.kind)
        assert example.ambiguous_at == (0,)
        assert len(first.alternatives) == TWINS[first.kind] + 1
        assert len({round(p, 9) for p in first.alternatives.values()}) == 1
        assert grammar.CLARIFY in first.alternatives
    assert seen == set(TWINS)


def test_an_interrupted_reply_keeps_its_labels_true() -> None:
    rng = random.Random(2)
    moved = 0
    for _ in range(500):
        example = grammar.interrupt(rng, grammar.sample(rng, rng.choice(("town", "capital", "add", "story"))))
        ((start, stop),) = example.forced
        assert example.assistant[start:stop].strip() == grammar.CLARIFY
        for choice in example.choices:
            assert not start <= choice.offset < stop
            assert any(example.assistant[choice.offset :].startswith(text) for text in choice.alternatives)
            moved += choice.offset >= stop
    assert moved > 100


def test_the_gold_answer_is_found_in_the_reply() -> None:
    rng = random.Random(4)
    for _ in range(1000):
        example = grammar.sample(rng)
        if example.gold is not None:
            assert grammar.final_answer(example.assistant) == example.gold


def test_only_the_first_turn_may_be_ambiguous() -> None:
    rng = random.Random(5)
    for _ in range(200):
        talk = grammar.conversation(rng, turns=3)
        assert all(example.kind not in ("ambiguous", "clarified") for example in talk[1:])


@pytest.mark.parametrize("kind", grammar.PROBES)
def test_probes_come_only_by_name(kind: str) -> None:
    assert kind not in grammar.KINDS
    for example in draw(kind, "check", 20):
        assert example.kind == kind
        assert grammar.final_answer(example.assistant) == example.gold


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        grammar.sample(random.Random(0), "poem")
    with pytest.raises(ValueError, match="unknown split"):
        grammar.sample(random.Random(0), "sort", "test")  # type: ignore[arg-type]


def test_data_is_written_as_json_lines(tmp_path: Path) -> None:
    out = tmp_path / "data.jsonl"
    data.write(out, "check", 40, seed=1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        text = row["messages"][-1]["content"]
        for choice in row["choices"]:
            assert any(
                text[choice["offset"] :].startswith(alternative) for alternative in choice["alternatives"]
            )


@pytest.mark.usefixtures("current_recipe")
def test_the_shipped_calibration_data_is_what_the_command_writes(tmp_path: Path) -> None:
    out = tmp_path / "calibration.jsonl"
    data.write(out, "calibration", 600, seed=1, widest=4, extra={"ambiguous": 200, "word": 200})
    shipped = entropick_pico.calibration_path()
    assert out.read_bytes() == shipped.read_bytes()
    assert shipped.stat().st_size < 500_000
    assert any(json.loads(line)["ambiguous_at"] for line in shipped.read_text().splitlines())


def test_importing_the_package_loads_no_tensor_library() -> None:
    code = "import sys, entropick_pico; print('torch' in sys.modules)"
    where = str(Path(entropick_pico.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=where)
    assert done.stdout.strip() == "False"
