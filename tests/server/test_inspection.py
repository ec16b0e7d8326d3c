"""``entropick explain`` and ``entropick replay`` beside a server that answers from a script."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from entropick_server import cli
from entropick_server.inspection import command
from entropick_server.inspection.replay import compare

ROW = {
    "index": 0,
    "token": "\x1b[2J",
    "token_id": 65,
    "strategy": "explore",
    "forced": False,
    "parameters": {"temperature": 0.7, "top_k": 40},
    "signals": {"logits_entropy": 1.5, "surprisal": 1.0},
}
SERIES = {
    "index": [0, 1],
    "token": ["\x1b[2J", "b"],
    "token_id": [65, 66],
    "strategy": ["explore", "explore"],
    "forced": [False, False],
    "temperature": [0.7, 0.7],
    "top_k": [40, 40],
    "logits_entropy": [1.5, 1.5],
    "surprisal": [1.0, 1.0],
    "agreement": [None, None],
}
ROWS = [ROW, {**ROW, "index": 1, "token_id": 66, "token": "b"}]


def changed(n: int, **fields: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(json.dumps(ROWS))
    for name, value in fields.items():
        part = next((rows[n][p] for p in ("parameters", "signals") if name in rows[n][p]), rows[n])
        part[name] = value
    return rows


def test_equal_series() -> None:
    assert compare(SERIES, ROWS) == (None, ("temperature", 0.0))
    close, largest = compare(SERIES, changed(1, logits_entropy=1.5004))
    assert close is None
    assert largest is not None
    assert (largest[0], round(largest[1], 6)) == ("logits_entropy", 0.0004)


@pytest.mark.parametrize(
    ("fields", "index", "name"),
    [
        ({"logits_entropy": 1.6}, 1, "logits_entropy"),
        ({"strategy": "greedy"}, 1, "strategy"),
        ({"top_k": 41}, 1, "top_k"),
        ({"token_id": 67}, 1, "token_id"),
        ({"agreement": 0.5}, 1, "agreement"),
    ],
)
def test_the_first_difference(fields: dict[str, Any], index: int, name: str) -> None:
    difference, _ = compare(SERIES, changed(1, **fields))
    assert difference is not None
    assert (difference.index, difference.name) == (index, name)


def test_lengths() -> None:
    longer = [*ROWS, {**ROWS[1], "index": 2}]
    difference, _ = compare(SERIES, longer)
    assert difference is not None
    assert (difference.index, difference.recorded, difference.replayed) == (2, None, 66)
    assert compare(SERIES, longer, cut_off=True)[0] is None
    difference, _ = compare(SERIES, ROWS[:1], cut_off=True)
    assert difference is not None


def finished(**fields: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "choice": 0,
        "model": "m",
        "finish_reason": "stop",
        "completion_tokens": 2,
        "summary": {"policy": "entropix", "preset": "seed", "profile": None, "seed": 7},
        "request": {"prompt": [1], "entropick": {"policy": "entropix", "telemetry": "none"}},
        "series": SERIES,
        **fields,
    }


class Scripted:
    """Answers of a server, and what it was asked."""

    def __init__(self, choice: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.choice, self.rows = choice, rows
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.headers.get("authorization") != "Bearer k":
            return httpx.Response(401, json={"error": {"message": "a wrong key"}})
        if request.method == "POST":
            return httpx.Response(200, json={"id": "r", "choices": [{"entropick": {"tokens": self.rows}}]})
        return httpx.Response(200, json={"id": "cmpl-1", "choices": [self.choice]})


def run(server: Scripted, *argv: str) -> int:
    return command.run([*argv, "--url", "http://there/v1/"], httpx.MockTransport(server))


def test_replay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTROPICK_API_KEY", "k")
    server = Scripted(finished(), ROWS)
    assert run(server, "replay", "my/id") == 0
    assert "cmpl-1 choice 0: equal, 2 tokens and their figures" in capsys.readouterr().out
    assert server.asked[0].url.raw_path == b"/v1/requests/my%2Fid"
    assert json.loads(server.asked[1].content)["entropick"]["telemetry"] == "tokens"
    server.rows = changed(1, surprisal=3.0)
    assert run(server, "replay", "x") == 1
    told = capsys.readouterr().out
    assert "the same text, another figure: token 1, surprisal: recorded 1.0, replayed 3.0" in told
    server.rows = changed(0, token_id=3)
    assert run(server, "replay", "x", "--json") == 1
    (outcome,) = json.loads(capsys.readouterr().out)
    assert (outcome["equal"], outcome["same_text"], outcome["difference"]["index"]) == (False, False, 0)


def test_what_cannot_be_replayed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    server = Scripted(finished(request=None), ROWS)
    assert run(server, "replay", "x", "--api-key", "k") == 2
    assert "keeps no prompts (--no-recent-prompts)" in capsys.readouterr().err
    assert run(server, "replay", "x", "--api-key", "k", "--choice", "3") == 2
    assert "has no choice 3 (it has 0)" in capsys.readouterr().err
    assert run(server, "explain", "x") == 2
    assert "401: a wrong key" in capsys.readouterr().err


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        **ROW,
        "how": "drawn",
        "probability": 0.5,
        "rule": "logits_entropy 1.5 < explore_entropy 5",
        "words": {"temperature": "temperature 0.7"},
        "branches": [{"text": "x\n", "score": None, "chosen": True, "tokens": 1}],
    }
    inside = {**ROW, "how": "drawn", "probability": None, "rule": "r", "words": {}}
    inside["rollout"] = {"opened_at": 0, "kept": 1}
    server = Scripted(finished(policy_parameters={"greedy_entropy": 0.1}, tokens=[row, inside]), [])
    assert run(server, "explain", "x", "--api-key", "k") == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told  # a token cannot move the terminal's cursor
    for words in (
        "cmpl-1 choice 0: m, policy entropix, preset seed, profile none, seed 7, 2 tokens, stop",
        "in force: greedy_entropy 0.1",
        "explore: drawn, probability 0.5",
        "rule: logits_entropy 1.5 < explore_entropy 5",
        "drawn with: temperature 0.7",
        "branch 0 (kept, score -): 'x\\n'",
        "of branch 1, opened at token 0 and kept",
    ):
        assert words in told
    assert server.asked[0].url.path == "/v1/requests/x/explanation"


def test_the_console_script_knows_both(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("explain", "replay"):
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert "REQUEST_ID" in capsys.readouterr().out
