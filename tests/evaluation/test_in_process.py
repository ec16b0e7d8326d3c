"""The command on the shipped model, in this process: the app that serves, every kind of arm, twice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from entropick_server import cli

LINES = [
    {"id": "france", "prompt": "What is the capital of Falnia?", "answer": "Ashfield", "split": "test"},
    {"id": "sort", "prompt": "Sort 3 1 2.", "answer": "1 2 3", "split": "fit", "max_tokens": 40},
    {"id": "count", "prompt": "Count the vowels.", "answer": 3, "split": "fit"},
    {"id": "open", "prompt": "Tell me a story.", "split": "test", "max_tokens": 24},
]
ARMS = """
[refused]
temperature = 9.0
[cold]
entropick.overrides.temperature = 0
[branched]
entropick.branch = {width = 2, depth = 3, on = ["adaptive", "explore", "high_uncertainty"]}
[vote]
temperature = 1.0
entropick = {policy = "fixed", consensus = {k = 3, stop = "all"}}
"""


def test_the_shipped_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks, arms, out = tmp_path / "t.jsonl", tmp_path / "arms.toml", tmp_path / "out"
    tasks.write_text("\n".join(map(json.dumps, LINES)))
    arms.write_text(ARMS)
    command = ["eval", "--tasks", str(tasks), "--out", str(out), "--max-tokens", "16", "--resamples", "200"]
    command += ["--quiet", "--arms", "greedy", str(arms), "vote_3", "cascade_6"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"{4 + 4 + 4 + 4 + 3 * 5 + 1} replies computed, 0 failed, 1 arms refused" in said

    data = json.loads((out / "report.json").read_text())
    assert data["model"] == "pico"
    assert data["refused"]["refused"].startswith("400: ")
    rows = {row["arm"]: row for row in data["halves"]["test"]["tables"][0]["rows"]}
    assert set(rows) == {"greedy", "cold", "branched", "vote", "vote_3", "cascade_6"}
    assert rows["greedy"]["accuracy"]["estimate"] == 1.0
    assert rows["vote"]["spent"] > rows["vote"]["tokens"]  # the replies that lost count
    opened = {row["arm"] for row in data["halves"]["test"]["open"]}
    assert opened == {"greedy", "cold", "branched", "vote"}

    (greedy,) = (out / "results").glob("*/greedy-*.gz")
    results = [json.loads(line) for line in gzip.decompress(greedy.read_bytes()).decode().splitlines()[1:]]
    (cold,) = (out / "results").glob("*/cold-*.gz")
    served = [json.loads(line) for line in gzip.decompress(cold.read_bytes()).decode().splitlines()[1:]]
    # what the report prints for greedy as the server's default: --overrides '{"temperature": 0}'
    assert [one["text"] for one in served] == [one["text"] for one in results]
    france = next(one for one in results if one["item"] == "france")
    assert france["text"] == "The capital is Ashfield."
    surprisal, offsets = (france["signals"][name].split() for name in ("surprisal", "offset"))
    assert france["tokens"] == len(surprisal) == len(offsets)
    assert offsets[0] == "0"
    assert "features" not in france  # they follow from the signals
    scores = {row["score"]: row for half in data["halves"].values() for row in half["scores"]}
    assert scores == {}  # of so few replies nothing is said

    before = {path: path.read_bytes() for path in (out / "results").rglob("*.gz")}
    assert cli.main(command) == 0
    assert "0 replies computed" in capsys.readouterr().out
    assert cli.main([*command, "--sample", "1"]) == 0
    assert (
        "32 results computed again: text and tokens equal 100.0%, figures equal 100.0%"
        in capsys.readouterr().out
    )
    assert {path: path.read_bytes() for path in (out / "results").rglob("*.gz")} == before


def test_a_model_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "t.jsonl"
    tasks.write_text(json.dumps(LINES[0]))
    assert (
        cli.main(["eval", "--tasks", str(tasks), "--model", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    )
    assert "the model could not be loaded" in capsys.readouterr().err
