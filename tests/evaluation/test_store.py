"""The store: the journal, the compressed files, their bytes."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from entropick_eval.arms import Arm
from entropick_eval.columns import ColumnError, from_text, rounded, to_text
from entropick_eval.store import JOURNAL, Result, Stamp, Store, StoreError, features_of

from .support import item

GREEDY = Arm("greedy", {"temperature": 0.0})
OTHER = Arm("other arm!", {"temperature": 1.0})
SIGNALS = {"surprisal": (0.25, None), "logits_entropy": (1.53, 0.0), "offset": (0.0, 3.0)}


def result(number: int, sample: int = 0, code: str = "c", text: str = "yes") -> Result:
    one = item(number)
    return Result(
        item=one.id,
        digest=one.digest,
        sample=sample,
        code=code,
        text=text,
        finish="stop",
        tokens=2,
        spent=3,
        correct=True,
        latency=0.5,
        features=features_of(SIGNALS) | {"error_probability": 0.125},
        signals=SIGNALS,
    )


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.add(GREEDY, result(1))
    store.add(OTHER, replace(result(2), correct=None, features={}, signals={}))
    store.fold()
    assert not (tmp_path / "m" / JOURNAL).exists()
    again = Store(tmp_path, "m")
    again.load([GREEDY, OTHER])
    assert again.get(GREEDY, item(1), 0, "c") == result(1)
    assert again.get(OTHER, item(2), 0, "c") == replace(result(2), correct=None, features={}, signals={})
    assert again.get(GREEDY, item(2), 0, "c") is None
    assert again.get(GREEDY, item(1), 1, "c") is None


def test_a_result_of_other_code_counts_only_where_any_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.add(GREEDY, result(1, code="old"))
    assert store.get(GREEDY, item(1), 0, "new") is None
    assert store.get(GREEDY, item(1), 0, None) is not None
    store.add(GREEDY, result(1, code="new", text="no"))
    store.fold()
    again = Store(tmp_path, "m")
    again.load([GREEDY])
    assert again.get(GREEDY, item(1), 0, None) == result(1, code="new", text="no")


def test_the_same_results_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows = [result(n, sample) for n in range(5) for sample in range(2)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        store = Store(tmp_path / name, "m")
        for row in order[:6]:
            store.add(OTHER, row)
        store.fold()
        for row in order[6:]:
            store.add(OTHER, row)
        store.fold()
    (one,), (other,) = ((tmp_path / name / "m").glob("*.gz") for name in "ab")
    assert one.name == other.name == f"other-arm-{OTHER.key}.jsonl.gz"
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes()[4:8] == bytes(4)  # no time in it
    lines = gzip.decompress(one.read_bytes()).decode().splitlines()
    assert json.loads(lines[0]) == {"arm": OTHER.key, "name": "other arm!", "body": {"temperature": 1.0}}
    assert len(lines) == 11


def test_a_renamed_arm_keeps_its_results_and_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.add(GREEDY, result(1))
    store.fold()
    renamed = Arm("temperature 0", {"temperature": 0.0})
    store = Store(tmp_path, "m")
    store.load([renamed])
    assert store.get(renamed, item(1), 0, "c") is not None
    store.add(renamed, result(2))
    store.fold()
    assert [path.name for path in (tmp_path / "m").iterdir()] == [f"greedy-{GREEDY.key}.jsonl.gz"]


def test_a_torn_line_of_the_journal_is_left_out_and_ended(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.add(GREEDY, result(1))
    store.close()
    journal = tmp_path / "m" / JOURNAL
    journal.write_text(journal.read_text() + '{"arm": "x", "na')
    store = Store(tmp_path, "m")
    store.load([GREEDY])
    assert store.get(GREEDY, item(1), 0, "c") is not None
    store.add(GREEDY, result(2))
    store.fold()
    again = Store(tmp_path, "m")
    again.load([GREEDY])
    assert again.get(GREEDY, item(1), 0, "c") is not None
    assert again.get(GREEDY, item(2), 0, "c") is not None


def test_models_do_not_share(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    store.add(GREEDY, result(1))
    store.fold()
    other = Store(tmp_path, "n")
    other.load([GREEDY])
    assert other.get(GREEDY, item(1), 0, "c") is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path = folder / f"greedy-{GREEDY.key}.jsonl.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(StoreError, match=f"{path.name}: cannot be read"):
        Store(tmp_path, "m").load([GREEDY])
    path.write_bytes(gzip.compress(b'{"arm": "x"}\nnot json\n'))
    with pytest.raises(StoreError, match=r"gz:2: not a JSON object"):
        Store(tmp_path, "m").load([GREEDY])
    path.write_bytes(gzip.compress(b'{"arm": "x"}\n{"item": "i"}\n'))
    with pytest.raises(StoreError, match="without all of its fields"):
        Store(tmp_path, "m").load([GREEDY])


# -- columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "text"),
    [
        ("surprisal", (0.25, None, 12.3456, -0.0), "25 - 1235 0"),
        ("logits_entropy", (1.525, 0.004), "152 0"),
        ("offset", (0, 4, 4, 11), "0 4 0 7"),
        ("agreement", (0.12349,), "123"),
        ("surprisal", (), ""),
    ],
)
def test_a_column_is_whole_numbers_that_come_back(name: str, column: tuple[float, ...], text: str) -> None:
    kept = rounded(name, column)
    assert to_text(name, kept) == text
    assert from_text(name, text) == kept
    assert rounded(name, kept) == kept


def test_a_text_that_is_no_column() -> None:
    with pytest.raises(ColumnError, match="surprisal"):
        from_text("surprisal", "1 2.5")


def test_lists_of_numbers_are_read_and_become_texts(tmp_path: Path) -> None:
    row = {
        **{name: getattr(result(1), name) for name in ("item", "digest", "code", "text", "finish")},
        **{"sample": 0, "seed": 1, "tokens": 2, "spent": 3, "correct": True, "latency": 0.5},
        "features": {"mean_logprob": -9.0, "answer_sum": -1.0, "error_probability": 0.5},
        "signals": {"surprisal": [0.12345, 1.0], "offset": [0, 2]},
    }
    lines = [{"arm": GREEDY.key, "name": "greedy", "body": dict(GREEDY.body)}, row]
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / f"greedy-{GREEDY.key}.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    store = Store(tmp_path, "m")
    store.load([GREEDY])
    (found,) = store.results(GREEDY)
    assert found.signals["surprisal"] == (0.12, 1.0)
    assert found.features == {**features_of(found.signals), "error_probability": 0.5}
    store.write(GREEDY)
    written = json.loads(gzip.decompress(path.read_bytes()).decode().splitlines()[1])
    assert written["signals"] == {"surprisal": "12 100", "offset": "0 2"}
    assert written["features"] == {"error_probability": 0.5}


def test_a_stamp_changes_the_code_and_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    for number in (1, 2):
        store.add(GREEDY, result(number, code="old"))
    store.fold()
    stamp = Stamp(("old",), "new", "2026-01-01", 1, 1)
    store.stamp(GREEDY, [result(1).key], stamp)
    again = Store(tmp_path, "m")
    again.load([GREEDY])
    assert [one.code for one in again.results(GREEDY)] == ["new", "old"]
    assert again.stamps(GREEDY) == (stamp,)
    again.add(GREEDY, result(3, code="new"))
    again.fold()
    last = Store(tmp_path, "m")
    last.load([GREEDY])
    assert last.stamps(GREEDY) == (stamp,)
    assert len(last.results(GREEDY)) == 3
