"""Arms: built-in ones, files, grids, rules and what they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entropick_eval.arms import DEFAULT_ARMS, PRESETS, ArmError, choose_arms, expand


def test_the_default_arms() -> None:
    arms = choose_arms([], "greedy")
    assert {*arms.requests, *arms.rules} == set(DEFAULT_ARMS)
    assert arms.hidden == frozenset()
    assert arms.samples("min_p_02") == 5
    assert arms.samples("greedy") == 1


def test_every_preset_can_be_chosen() -> None:
    arms = choose_arms(list(PRESETS), "greedy")
    assert {*arms.requests, *arms.rules} == set(PRESETS)
    assert len({arm.key for arm in arms.requests.values()}) == len(arms.requests)


def test_a_baseline_that_was_not_named_joins() -> None:
    assert list(choose_arms(["min_p"], "greedy").requests) == ["greedy", "min_p"]


def test_rules_bring_the_arms_they_need_hidden() -> None:
    arms = choose_arms(["vote_3"], "greedy")
    assert arms.hidden == {"min_p_02"}
    assert arms.samples("min_p_02") == 3
    assert [(arm.name, count) for arm, count in arms.jobs()] == [("greedy", 1), ("min_p_02", 3)]
    left = choose_arms(["vote_3", "vote_5", "min_p"], "greedy").only(["greedy", "vote_3"])
    assert (set(left.requests), set(left.rules), left.hidden) == (
        {"greedy", "min_p_02"},
        {"vote_3"},
        {"min_p_02"},
    )
    assert left.samples("min_p_02") == 3


def test_files_of_both_kinds(tmp_path: Path) -> None:
    toml = tmp_path / "arms.toml"
    toml.write_text(
        "[mine]\ntemperature = [0.3, 0.5]\n[mine.entropick]\npolicy = 'fixed'\n"
        "[vote]\nrule = {of = 'mine temperature=0.3', k = [3, 5]}\n"
    )
    arms = choose_arms([str(toml)], "greedy")
    assert list(arms.requests) == ["greedy", "mine temperature=0.3", "mine temperature=0.5"]
    assert list(arms.rules) == ["vote k=3", "vote k=5"]
    assert arms.requests["mine temperature=0.3"].body == {
        "temperature": 0.3,
        "entropick": {"policy": "fixed"},
    }
    as_json = tmp_path / "arms.json"
    as_json.write_text(json.dumps({"dry": {"dry_multiplier": 0.8, "samplers": ["dry", "min_p"]}}))
    assert choose_arms([str(as_json)], "greedy").requests["dry"].body["samplers"] == ["dry", "min_p"]


def test_a_grid_is_every_combination_and_lists_of_lists_offer_lists() -> None:
    found = dict(expand("g", {"a": [1, 2], "b": {"on": [["x"], ["x", "y"]]}, "c": 3}))
    assert len(found) == 4
    assert found['g a=2 on=["x","y"]'] == {"a": 2, "b": {"on": ["x", "y"]}, "c": 3}
    assert dict(expand("g", {"stop": ["a", "b"]})) == {"g": {"stop": ["a", "b"]}}


def test_the_key_is_of_the_body_alone() -> None:
    one, other = (choose_arms([], "greedy").requests[name] for name in ("greedy", "sampling"))
    assert one.key != other.key
    assert not one.reads_profile
    assert not other.reads_profile
    assert choose_arms(["calibrated"], "greedy").requests["calibrated"].reads_profile


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nrule = {of = 'greedy', k = 0}", "arm 'a': rule.k:"),
        ("[a]\ntop_k = 1\nrule = {of = 'greedy', k = 2}", "arm 'a': beside rule"),
        ("[a]\nrule = {of = 'nothing', k = 2}", "arm 'a': rule: 'nothing' is no request arm"),
        ("a = 3", "must be a table of arms"),
        ("[a", "cannot be read"),
        ("[a]\nt = []", "t: a list of no value"),
        ("[greedy]\ntemperature = 1", "arm 'greedy' is named twice"),
        (f"[a]\nx = {list(range(50))}\ny = {list(range(50))}", "make more than 2000 arms"),
    ],
)
def test_errors(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(text)
    with pytest.raises(ArmError) as caught:
        choose_arms(["greedy", str(path)], "greedy")
    assert says in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(ArmError, match="no file and no built-in arm"):
        choose_arms(["gready"], "greedy")
    with pytest.raises(ArmError, match="baseline 'best' is none"):
        choose_arms(["greedy"], "best")
