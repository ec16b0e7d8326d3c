"""The labelled prompts of the shipped profile: they are what their templates make, and there are enough."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from clarify_fit import data_note
from clarify_prompts import ROUNDS, Round, alternatives, expand, first_half, read_templates, rows_of
from entropick_sampler.profile import Profile

FOLDER = Path(__file__).parent.parent / "server" / "entropick_server" / "profiles" / "smollm2"


def rows(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text().splitlines()]


def test_the_files_are_what_the_templates_make() -> None:
    made = rows_of(FOLDER)
    assert set(made) == {half for names in ROUNDS for half in (names.fitted, names.held_out)}
    for split, of_split in made.items():
        assert of_split == rows(split)


@pytest.mark.parametrize("names", ROUNDS, ids=lambda names: names.file)
def test_there_are_enough_prompts_and_half_of_the_templates_are_held_out(names: Round) -> None:
    fitted, held_out = rows(names.fitted), rows(names.held_out)
    for kind in ("ambiguous", "look-alike", "other"):
        assert sum(row["kind"] == kind for row in fitted + held_out) >= 400
    groups = [{row["template"].partition("/")[0] for row in part} for part in (fitted, held_out)]
    assert not groups[0] & groups[1]
    templates = [{row["template"] for row in part} for part in (fitted, held_out)]
    assert abs(len(templates[0]) - len(templates[1])) <= 3
    assert len(templates[0]) + len(templates[1]) >= 570


def test_the_shipped_profile_was_fitted_on_the_fitted_halves() -> None:
    note = data_note([FOLDER / f"{names.fitted}.jsonl" for names in ROUNDS])
    assert note in Profile.load(FOLDER.with_suffix(".toml")).notes


def test_no_prompt_is_there_twice() -> None:
    everything = [row for names in ROUNDS for half in (names.fitted, names.held_out) for row in rows(half)]
    said = [json.dumps(row.get("messages") or row["prompt"]) for row in everything]
    assert len(set(said)) == len(said)
    assert len({row["id"] for row in everything}) == len(everything)


def test_patterns() -> None:
    assert alternatives("a|b{c|d}|") == ["a", "b{c|d}", ""]
    found = {expand("x{a|b{c|d}}y{|z}", random.Random(i)) for i in range(100)}
    assert found == {f"x{m}y{e}" for m in ("a", "bc", "bd") for e in ("", "z")}
    assert len(first_half(str(i) for i in range(11))) == 6


@pytest.mark.parametrize(("text", "needle"), [("[pair a]\nx", "begins with"), ("x", "no section")])
def test_a_bad_line_is_named(text: str, needle: str) -> None:
    with pytest.raises(ValueError, match=needle):
        read_templates(text)
