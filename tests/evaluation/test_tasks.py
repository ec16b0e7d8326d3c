"""Files of tasks: the smallest item, defaults, errors with their place, limits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from entropick_eval.tasks import Item, TaskError, limited, parse_item, read_tasks, split_of


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_the_smallest_item(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"prompt": "2+2?", "answer": 4}, "", {"prompt": "Tell a story."})
    first, second = read_tasks([path])
    assert first.messages == ({"role": "user", "content": "2+2?"},)
    assert first.family == "mine"
    assert first.id.startswith("mine-")
    assert first.check is not None
    assert second.check is None
    assert first.split == split_of(first.id)


def test_all_fields(tmp_path: Path) -> None:
    item = {
        "id": "a",
        "family": "f",
        "split": "test",
        "messages": [
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Capital of "}, {"type": "text", "text": "Peru?"}],
            },
        ],
        "check": {"type": "exact"},
        "answer": ["Lima"],
        "max_tokens": 9,
        "extract": {"regex": "[A-Z]+"},
        "stop": "\n",
        "meta": {"source": "mine"},
    }
    (found,) = read_tasks([write(tmp_path / "t.jsonl", item)])
    assert (found.id, found.family, found.split, found.max_tokens) == ("a", "f", "test", 9)
    assert (found.stop, found.extract, found.question) == (("\n",), {"regex": "[A-Z]+"}, "Capital of Peru?")


def test_the_digest_is_of_what_a_reply_depends_on() -> None:
    base = {"id": "a", "prompt": "p", "answer": "x"}
    same = [parse_item({**base, **more}, "s").digest for more in ({}, {"answer": "y"}, {"family": "g"})]
    other = [
        parse_item({**base, **more}, "s").digest
        for more in ({"prompt": "q"}, {"max_tokens": 3}, {"stop": ["."]})
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 4


def test_halves_by_hash_are_about_equal_and_stay() -> None:
    counts = Counter(split_of(f"item-{n}") for n in range(2000))
    assert 900 < counts["fit"] < 1100
    assert split_of("item-1") == split_of("item-1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "t.jsonl:2: not a JSON object"),
        ("[1]", "t.jsonl:2: not a JSON object"),
        ({"prompt": ""}, "t.jsonl:2: prompt: must be a string that is not empty"),
        ({}, "t.jsonl:2: prompt: an item has either"),
        ({"prompt": "p", "messages": []}, "t.jsonl:2: prompt: an item has either"),
        ({"messages": [{"role": "user"}]}, "t.jsonl:2: messages[0].content: must be a string"),
        ({"messages": [{"role": "me", "content": "x"}]}, "t.jsonl:2: messages[0].role: must be one of"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "t.jsonl:2: messages[0].role: the last message",
        ),
        ({"prompt": "p", "max_tokens": 0}, "t.jsonl:2: max_tokens: must be a whole number"),
        ({"prompt": "p", "stop": [1]}, "t.jsonl:2: stop: must be a string"),
        ({"prompt": "p", "split": "train"}, "t.jsonl:2: split: must be one of fit, test"),
        ({"prompt": "p", "anwser": "x"}, "t.jsonl:2: anwser: no such field"),
        ({"prompt": "p", "id": "first"}, "t.jsonl:2: id: 'first' is the id of"),
        ({"prompt": "p", "check": {"type": "regex", "pattern": "("}}, "t.jsonl:2: check.pattern:"),
        ({"prompt": "p", "extract": "all"}, "t.jsonl:2: extract: must be one of"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, line: Any, says: str) -> None:
    path = write(tmp_path / "t.jsonl", {"id": "first", "prompt": "p"}, line)
    with pytest.raises(TaskError) as caught:
        read_tasks([path])
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(says)


def test_a_file_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.jsonl: cannot be read"):
        read_tasks([tmp_path / "none.jsonl"])
    with pytest.raises(TaskError, match="no item in"):
        read_tasks([write(tmp_path / "t.jsonl", "")])


def test_files_are_found_by_path_and_shipped_ones_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entropick_eval import tasks

    (tmp_path / "data").mkdir()
    shipped = write(tmp_path / "data" / "sums.jsonl", {"prompt": "p"})
    own = write(tmp_path / "own.jsonl", {"prompt": "p"})
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "tasks.py"))
    assert tasks.find_tasks([str(own), "sums"]) == [own, shipped]
    with pytest.raises(TaskError, match="summs: there is no such file; shipped tasks: sums"):
        tasks.find_tasks(["summs"])


def item(family: str, number: int, split: str) -> Item:
    return parse_item(
        {"id": f"{family}{number}", "family": family, "split": split, "prompt": str(number)}, "s"
    )


def test_a_limit_keeps_the_shares_and_the_order() -> None:
    items = [item("a", n, s) for n in range(60) for s in ("fit",)] + [item("b", n, "test") for n in range(20)]
    chosen = limited(items, 20)
    assert Counter(one.family for one in chosen) == {"a": 15, "b": 5}
    assert [items.index(one) for one in chosen] == sorted(items.index(one) for one in chosen)
    assert chosen == limited(items, 20)
    assert limited(items, None) == limited(items, 80) == items
