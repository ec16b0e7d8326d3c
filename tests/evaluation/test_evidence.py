"""The evidence: the plan, what is computed and kept, a random part again, the aims, the page."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from entropick_eval.comparison import POOLED
from entropick_eval.store import Store
from entropick_eval.tasks import parse_item
from entropick_pico import grammar
from evidence import pico_tasks
from evidence.aims import (
    aims_of,
    best_of_fit,
    default_is_even,
    default_repeats_less,
    gains,
    gains_on_families,
)
from evidence.compute import ModelError, again, claim, complete, kept, open_store, request_arms, take
from evidence.document import PAGE, differences, page, write
from evidence.findings import Findings, findings, looks_again
from evidence.plan import EvidencePlan, PlanError, Run, read_plan

from .support import Server, completion

ARMS = """
[greedy]
temperature = 0.0
[default]
[sampling]
temperature = 0.7
entropick.policy = "fixed"
[seed]
entropick.preset = "seed"
[branches]
entropick.branch = {width = 4}
[vote]
rule = {of = "sampling", k = [3, 5]}
[cascade]
rule = {of = "sampling", consensus = {k = 4, stop = {rule = "cascade", answer_bits = [0.1, 9.0]}}}
"""
PLAN = """
baseline = "greedy"
default = "default"
max_tokens = 64
[server]
batch_invariant = true
max_num_seqs = 4
[models.smollm2]
serve = "somewhere"
[models.other]
arms = "other.toml"
of = "smollm2"
by = "make other"
timed = true
[[runs]]
model = "smollm2"
split = "test"
tasks = ["mine.jsonl"]
arms = ["greedy", "default", "sampling", "vote*", "cascade*", "seed"]
[[runs]]
model = "smollm2"
split = "fit"
tasks = ["mine.jsonl"]
limit = 20
arms = ["*"]
[[runs]]
model = "smollm2"
split = "test"
tasks = ["stories.jsonl"]
arms = ["greedy", "default", "branches"]
[[runs]]
model = "other"
split = "test"
tasks = ["mine.jsonl"]
limit = 10
arms = ["*"]
"""


@pytest.fixture
def plan(tmp_path: Path) -> EvidencePlan:
    rows = [
        {
            "id": f"{family}{n}",
            "family": family,
            "split": "fit" if n % 2 else "test",
            "prompt": f"What is {n} + 1?",
            "answer": n + 1,
        }
        for family in ("sums", "more")
        for n in range(40)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stories = [{"id": f"s{n}", "split": "test", "prompt": f"Tell a story of {n} dogs."} for n in range(6)]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, stories)))
    (tmp_path / "arms.toml").write_text(ARMS)
    (tmp_path / "other.toml").write_text("[theirs]\ntemperature = 0.5\n")
    (tmp_path / "plan.toml").write_text(PLAN)
    return read_plan(tmp_path / "plan.toml")


def answer(body: Mapping[str, Any]) -> httpx.Response:
    """Greedy is right on every second test item, a sample on three of four; the default repeats nothing."""
    text = body["messages"][-1]["content"]
    (number,) = map(int, re.findall(r"\d+", text)[:1])
    greedy = body.get("temperature") == 0
    if "story" in text:
        story = "a dog met a dog and a dog met a dog " if greedy else "one two three four five six seven "
        return completion(story, 30)
    if body.get("entropick", {}).get("preset") == "seed":
        return httpx.Response(400, json={"error": {"message": "no seed here"}})
    right = number % 4 < 2 if greedy or "temperature" not in body else body["seed"] % 4 > 0
    row = {"token": f"{number + 1 + (not right)}", "signals": {"surprisal": 0.5, "logits_entropy": 1.0}}
    rows = [row, *({"token": "", "signals": {"surprisal": 0.25, "logits_entropy": 0.5}} for _ in range(7))]
    return completion(row["token"], 8, entropick={"tokens": rows})


async def filled(
    plan: EvidencePlan, folder: Path, models: tuple[str, ...] = ("smollm2", "other")
) -> list[str]:
    said: list[str] = []
    for name in models:
        runs = plan.runs_of(name)
        store = open_store(folder, name, request_arms(runs))
        said += await complete(plan, runs, Server(answer).target(ours=name != "other"), store)
    return said


# -- the plan ------------------------------------------------------------------------------------------


def _names(run: Run) -> set[str]:
    return {*run.arms.requests, *run.arms.rules}


def test_the_shipped_plan() -> None:
    plan = read_plan()
    assert plan.server["batch_invariant"] is True
    asked = [run for run in plan.runs if run.model == "smollm2" and run.items[0].check is not None]
    assert len({item.id for run in asked if run.split == "test" for item in run.items}) >= 2000
    for arm in (plan.default, "line_consensus"):
        questions = [len(run.items) for run in asked if run.split == "test" and arm in _names(run)]
        assert max(questions) >= 1200
    (apart,) = (run for run in asked if run.apart)
    assert (apart.split, set(apart.arms.requests)) == ("fit", {"greedy"})
    in_tables = {item.family for run in asked if not run.apart for item in run.items}
    assert not in_tables & {item.family for item in apart.items}
    assert len({item.family for run in plan.runs_of("pico") for item in run.items}) > 10
    names = {*plan.models["smollm2"].arms.requests, *plan.models["smollm2"].arms.rules}
    assert {"greedy", "default", "sampling", "min_p", "seed", "vote k=5", "again_if_no_answer k=6"} <= names
    assert plan.default in names
    assert plan.shared("smollm2") == {"greedy", "greedy_line", "min_p_02", "min_p_02_line"}
    assert sum(looks_again(plan.models["smollm2"].arms, name) for name in names) >= 20
    for model in plan.models.values():
        assert plan.runs_of(model.name)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('split = "fit"', 'split = "dev"', "split: must be one of fit, test"),
        ("limit = 20", "limits = 20", r"runs\[1\].limits: no such field"),
        ('arms = ["*"]', 'arms = ["gready"]', "'gready' is no arm of smollm2"),
        ('model = "other"', 'model = "third"', "'third' is none of smollm2, other"),
        ('of = "smollm2"', 'off = "smollm2"', "models.other.off: no such field"),
        ('default = "default"', "", "'default' is missing"),
        ('tasks = ["stories.jsonl"]', 'tasks = ["gone.jsonl"]', "gone.jsonl: there is no such file"),
    ],
)
def test_an_error_names_its_place(plan: EvidencePlan, tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(old, new))
    with pytest.raises(PlanError, match=says):
        read_plan(tmp_path / "plan.toml")


def test_rules_alone_make_their_replies_dear_to_keep(plan: EvidencePlan) -> None:
    test, _, stories = plan.runs_of("smollm2")
    levels = {arm.name: kept(plan, test, arm) for arm in test.arms.requests.values()}
    assert levels == {"greedy": "scores", "sampling": "answers", "default": "figures", "seed": "figures"}
    assert {kept(plan, stories, arm) for arm in stories.arms.requests.values()} == {"figures"}


# -- computing -----------------------------------------------------------------------------------------


async def test_what_is_missing_is_computed_once(plan: EvidencePlan, tmp_path: Path) -> None:
    said = await filled(plan, tmp_path / "r")
    assert [line for line in said if "no seed here" in line]
    runs = plan.runs_of("smollm2")
    store = open_store(tmp_path / "r", "smollm2", request_arms(runs))
    counts = {arm.name: len(store.results(arm)) for arm in request_arms(runs)}
    assert counts == {
        "greedy": 40 + 20 + 6, "default": 40 + 20 + 6, "sampling": 60 * 5, "branches": 20 + 6, "seed": 0,
    }  # fmt: skip
    (sampled,) = {frozenset(one.signals) for one in store.results(runs[0].arms.requests["sampling"])}
    assert sampled == {"surprisal", "offset"}
    server = Server(answer)
    await complete(plan, runs, server.target(), store)
    assert all(body["entropick"].get("preset") == "seed" for body in server.bodies)


async def test_results_are_taken_from_another_folder(plan: EvidencePlan, tmp_path: Path) -> None:
    await filled(plan, tmp_path / "r", ("smollm2",))
    runs = plan.runs_of("smollm2")
    source = open_store(tmp_path / "r", "smollm2", request_arms(runs))
    store = Store(tmp_path / "s", "smollm2")
    assert take(plan, runs, source, store) == 66 + 66 + 300 + 26
    assert take(plan, runs, source, store) == 0
    own = open_store(tmp_path / "s", "smollm2", request_arms(runs))
    for arm in request_arms(runs):
        assert own.results(arm) == source.results(arm)


async def test_a_random_part_again_finds_a_change(plan: EvidencePlan, tmp_path: Path) -> None:
    await filled(plan, tmp_path, ("smollm2",))
    runs = plan.runs_of("smollm2")
    store = open_store(tmp_path, "smollm2", request_arms(runs))
    found = await again(plan, runs, Server(answer).target(code="other code"), store, 800, 3)
    assert found.stored == 458
    assert found.tokens <= 800
    assert 20 < len(found.again) <= 100
    assert all(one.same_text and one.same_figures for one in found.again)

    def changed(body: Mapping[str, Any]) -> httpx.Response:
        return completion("new") if body.get("temperature") == 0.7 else answer(body)

    found = await again(plan, runs, Server(changed).target(), store, 800, 3)
    assert {one.arm for one in found.again if not one.same_text} == {"sampling"}
    empty = await again(plan, runs, Server(answer).target(), Store(tmp_path / "no", "smollm2"), 800, 3)
    assert (empty.stored, empty.again) == (0, ())


def test_results_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    claim(tmp_path, "pico", "one", "pico", False)
    claim(tmp_path, "pico", "one", "pico", False)
    (tmp_path / "pico" / "greedy-1.jsonl.gz").write_bytes(b"")
    with pytest.raises(ModelError, match="results of another pico"):
        claim(tmp_path, "pico", "two", "pico", False)
    assert (tmp_path / "pico" / "greedy-1.jsonl.gz").exists()
    claim(tmp_path, "pico", "two", "pico", True)
    assert not (tmp_path / "pico" / "greedy-1.jsonl.gz").exists()
    claim(tmp_path, "pico", "two", "pico", False)


# -- the page ------------------------------------------------------------------------------------------


async def test_the_page_says_what_is_missing_and_what_missed_first(
    plan: EvidencePlan, tmp_path: Path
) -> None:
    await filled(plan, tmp_path / "r")
    found = findings(plan, "smollm2", tmp_path / "r", 300)
    text = page([found])
    verdicts = re.findall(r"\| (missed|not computed|met) \|$", text, re.M)
    assert len(verdicts) == 6
    assert verdicts == sorted(verdicts, key=["missed", "not computed", "met"].index)
    parts = ("## Aims", "## What did not come out", "\n## smollm2", "smollm2: Test half", "smollm2: Fit half")
    order = [text.index(part) for part in parts]
    assert order == sorted(order)
    assert "not computed yet on the test half: `seed`" in text
    assert "`branches` repeats" not in text
    for arm in ("greedy", "default", "sampling", "vote k=3", "cascade answer_bits=9.0", "theirs"):
        assert f"| {arm} |" in text
    assert "#### smollm2: more" in text
    assert "time to the answer" in text
    row = found.rows("test", "vote k=5")[POOLED]
    assert row.difference is not None
    assert row.difference.low > 0.1
    assert row.relative == 5
    assert found.repeated("test", "greedy") == pytest.approx(3 / 8, abs=0.2)
    assert found.repeated("test", "default") == 0
    docs = tmp_path / "docs"
    docs.mkdir()
    assert write([found], docs)
    assert write([found], docs) == []
    assert "evidence-smollm2-test.svg" in (docs / PAGE).read_text()
    assert (docs / "evidence-smollm2-test.svg").read_text().startswith("<svg")
    again_found = findings(plan, "smollm2", tmp_path / "r", 300)
    assert write([again_found], docs) == []
    (docs / PAGE).write_text((docs / PAGE).read_text().replace("| met |", "| missed |", 1))
    assert len(write([again_found], docs)) == 2


async def test_families_that_the_baseline_cannot_do_stand_apart(plan: EvidencePlan, tmp_path: Path) -> None:
    """They are named with their share and have no part in a figure; a family on the wrong side is told."""
    rows = [
        {"id": f"{name}{n}", "family": name, "split": "fit", "prompt": f"What is {n} + 2?", "answer": answer}
        for name, more in (("hard", 9), ("easy", 1))
        for n in range(8)
        for answer in (n + more,)
    ]
    (tmp_path / "apart.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = """
[[runs]]
model = "smollm2"
split = "fit"
tasks = ["apart.jsonl"]
arms = ["greedy"]
apart = true
"""
    (tmp_path / "plan.toml").write_text("least = 0.3\n" + PLAN + run)
    plan = read_plan(tmp_path / "plan.toml")
    await filled(plan, tmp_path / "r", ("smollm2",))
    found = findings(plan, "smollm2", tmp_path / "r", 100)
    assert (found.screened["hard"].right, found.screened["hard"].n) == (0.0, 8)
    assert {table.family for table in found.halves["fit"].tables} == {POOLED, "sums", "more"}
    text = page([found])
    assert "less than 30% of the fit half" in text
    assert "hard 0.0% of 8" in text
    assert "easy stands apart, though `greedy` solves 50.0% of 8 (limit 30%)" in text


def test_a_page_without_results(plan: EvidencePlan, tmp_path: Path) -> None:
    text = page([findings(plan, "smollm2", tmp_path / "r", 100)])
    assert "There is no result on the test half yet." in text
    assert "| met |" not in text
    assert "| missed |" not in text
    assert text.count("| not computed |") == 6
    assert "not computed yet on the test half (`make other`): `theirs`" in text


async def test_an_arm_in_part_is_named_as_such(plan: EvidencePlan, tmp_path: Path) -> None:
    await filled(plan, tmp_path, ("smollm2",))
    arm = plan.models["smollm2"].arms.requests["default"]
    store = open_store(tmp_path, "smollm2", [arm])
    part = store.results(arm)[:-3]
    path = next((tmp_path / "smollm2").glob("default-*"))
    path.unlink()
    fresh = Store(tmp_path, "smollm2")
    for result in part:
        fresh.add(arm, result)
    fresh.fold()
    found = findings(plan, "smollm2", tmp_path, 100)
    assert "default" not in found.complete("test") & found.complete("fit")
    assert re.search(r"computed in part on the (test|fit) half: `default` \d+/", page([found]))


def test_differences_are_the_lines_that_are_not_in_both() -> None:
    assert differences("a.md", "x\ny\n", "x\nz\n") == ["a.md: -y", "a.md: +z"]
    assert differences("a.md", "x\n", "x\n") == []


# -- aims ----------------------------------------------------------------------------------------------


async def test_aims_are_judged_by_the_test_half(plan: EvidencePlan, tmp_path: Path) -> None:
    await filled(plan, tmp_path)
    found = findings(plan, "smollm2", tmp_path, 300)
    even, families = default_is_even(found)
    assert (even.verdict, families.verdict) == ("met", "met")
    (repeats,) = default_repeats_less(found)
    assert repeats.verdict == "met"
    assert best_of_fit(found, 6.0) == "vote k=5"
    assert best_of_fit(found, 3.5) == "vote k=3"
    (there,) = gains(0.10, 6.0)(found)
    assert there.verdict == "met"
    assert "`vote k=5`" in there.figure
    (dear,) = gains(0.90, 6.0)(found)
    assert dear.verdict == "missed"
    (nothing,) = gains(0.05, 0.5)(found)
    assert nothing.verdict == "not computed"
    (both,) = gains_on_families(0.10, 6.0, 2)(found)
    assert both.verdict == "met"
    (three,) = gains_on_families(0.10, 6.0, 3)(found)
    assert three.verdict == "missed"
    ordered = aims_of(found, {"smollm2": (default_is_even, gains(0.90, 6.0), gains(0.05, 0.5))})
    assert [aim.verdict for aim in ordered] == ["missed", "not computed", "met", "met"]


async def test_a_default_that_harms_misses_its_aims(plan: EvidencePlan, tmp_path: Path) -> None:
    await filled(plan, tmp_path)
    found = findings(plan, "smollm2", tmp_path, 300)
    worse: Findings = replace(found, default="theirs", baseline="greedy")
    better: Findings = replace(found, default="vote k=5")
    assert {aim.verdict for aim in default_is_even(better)} == {"met"}
    assert {aim.verdict for aim in default_repeats_less(worse)} <= {"missed", "not computed"}
    harmful = replace(found, default="greedy", baseline="greedy")
    assert {aim.verdict for aim in default_is_even(harmful)} == {"not computed"}


# -- pico's questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind, sizes in pico_tasks.MANY_TEXTS.items() for size in sizes),
        *((kind, None) for kind in pico_tasks.ONE_TEXT),
    ],
)
def test_the_grammars_own_replies_are_right(kind: str, size: int | None) -> None:
    rng = random.Random(1)
    for _ in range(10):
        example = grammar.of_size(rng, kind, size, "check") if size else grammar.sample(rng, kind, "check")
        item = parse_item({"prompt": example.user, **pico_tasks.checked(kind, example.gold)}, "s")
        assert item.check is not None
        assert item.check.grade(example.assistant)
        found = item.check.find(example.assistant)
        assert found is not None
        assert item.check.extract == item.extract or item.extract is None
        assert not item.check.grade(example.assistant.replace(f"{example.gold}.", "nothing."))
        assert example.assistant[found.begin : found.end].strip(" .").endswith(str(example.gold))
