"""The shipped task files: format, halves without common content, checks that tell right from wrong."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from entropick_eval.checkers import build_check
from entropick_eval.tasks import read_tasks
from entropick_server.answers import comparable, extractor

ROOT = Path(__file__).parents[2]
DATA = ROOT / "evaluation" / "entropick_eval" / "data"
FILES = sorted(DATA.glob("*.jsonl"))
CHECKED = [path for path in FILES if path.stem != "open"]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompt(record: dict[str, Any]) -> str:
    content: str = record["messages"][-1]["content"]
    return content


def test_all_files_are_read_as_tasks():
    items = read_tasks(FILES)
    families = {item.family for item in items if item.check}
    assert families == {path.stem for path in CHECKED}
    tested = Counter(item.family for item in items if item.split == "test")
    assert sum(tested[name] for name in families) >= 2000
    assert min(tested[name] for name in families) >= 150
    assert tested["open"] >= 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_halves_share_no_content(path):
    content = defaultdict(set)
    prompts = defaultdict(set)
    for record in records(path):
        family, key, _ = record["id"].split("/")
        assert family == record["family"] == path.stem
        content[record["split"]].add(key)
        prompts[record["split"]].add(re.sub(r"\W+", " ", prompt(record).lower()))
    assert content["fit"]
    assert not content["fit"] & content["test"]
    assert not prompts["fit"] & prompts["test"]


def test_halves_of_arithmetic_share_no_operands():
    for name in ("sums", "operations"):
        operands = defaultdict(set)
        for record in records(DATA / f"{name}.jsonl"):
            kind = record["id"].split("/")[1].split("-")[0]
            numbers = tuple(sorted(re.findall(r"\d+", prompt(record))))
            operands[record["split"]].add((kind, numbers))
        assert not operands["fit"] & operands["test"]


def test_halves_share_no_country():
    """A country is in one half in all families about countries."""
    where = defaultdict(set)
    for name in ("capitals", "places"):
        for record in records(DATA / f"{name}.jsonl"):
            where[record["id"].split("/")[1]].add(record["split"])
    assert where
    assert {country for country, halves in where.items() if len(halves) > 1} == set()


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.stem)
def test_checks_accept_the_answer_and_reject_another(path):
    """Every accepted answer is right in a sentence; the answer of another item is not."""
    rows = records(path)
    firsts = [row["answer"][0] if isinstance(row["answer"], list) else row["answer"] for row in rows]
    for index, row in enumerate(rows):
        check = build_check(row["check"], row["answer"], prompt(row), row)
        assert check is not None
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        for answer in answers:
            assert check.grade(f"It is {answer}."), row["id"]
        accepted = {str(answer).lower() for answer in answers}
        others = (firsts[(index + step) % len(rows)] for step in range(1, len(rows)))
        wrong = next(
            other
            for other in others
            if not any(str(other).lower() in answer or answer in str(other).lower() for answer in accepted)
        )
        assert not check.grade(f"It is {wrong}."), (row["id"], wrong)
        assert not check.grade("Hmm."), row["id"]
        assert not check.grade(""), row["id"]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.stem)
def test_a_repeated_question_is_no_answer(path):
    """Replies that only say the question again are wrong."""
    for row in records(path):
        check = build_check(row["check"], row["answer"], prompt(row), row)
        assert check is not None
        if row["check"]["type"] == "contains":
            assert not check.grade(prompt(row)), row["id"]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.stem)
def test_extractors_read_the_answer(path):
    """The extractor finds a right answer in plain replies, without knowing it."""
    for row in records(path):
        read = extractor(row["extract"])
        answer = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
        # extractors of names look for a capital letter
        said = str(answer)[0].upper() + str(answer)[1:]
        for reply in (f"It is {said}.", f"{said}."):
            found = read(reply)
            assert found is not None, row["id"]
            # of a name with several words a part will do: "Congo"
            assert f" {found.answer} " in f" {comparable(said)} ", (row["id"], reply)


def test_open_prompts_have_many_forms():
    rows = records(DATA / "open.jsonl")
    forms = Counter(row["id"].split("/")[1] for row in rows)
    assert len(rows) >= 200
    assert len(forms) >= 40
    assert {row["max_tokens"] for row in rows} == {256}
    assert not any("check" in row for row in rows)


def test_examples_are_tasks():
    items = read_tasks([ROOT / "examples" / "questions.jsonl"])
    assert len(items) == 20
    assert all(item.check for item in items)
