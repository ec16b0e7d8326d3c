"""The error probability on every engine: from the tokens that come back, whatever else was generated."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import httpx
import pytest

from .conftest import ERRORS
from .test_conformance import PROMPTS, ask, rows_of, text_of
from .test_consensus import HOT, SUMS, replies_of, verdict_of, voted


def told(answer: dict[str, Any], choice: int = 0) -> float | None:
    return answer["choices"][choice]["entropick"]["summary"].get("error_probability")  # type: ignore[no-any-return]


def probability(bias: float, weight: float, *values: float) -> float:
    return 1 / (1 + math.exp(-(bias + weight * sum(values))))


def drawn(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    own = [row["signals"] for row in rows if not row["forced"]]
    return [row["surprisal"] for row in own], [row["logits_entropy"] for row in own]


def of_reply(choice: dict[str, Any]) -> float:
    s, h = drawn(choice["entropick"]["tokens"])
    cut = float(choice["finish_reason"] == "length")
    return probability(-1.0, 0.3, -sum(s) / len(s), max(h), math.log2(len(s)), cut)


@pytest.mark.parametrize(
    "fields",
    [
        {"entropick": {"telemetry": "tokens"}},
        {"entropick": {"telemetry": "full"}, "temperature": 0},
        {"entropick": {"telemetry": "tokens", "policy": "fixed"}, "max_tokens": 7},
        {"entropick": {"telemetry": "tokens"}, "stop": [" ", "."], "max_tokens": 30},
        {"entropick": {"telemetry": "tokens"}, "n": 3, "max_tokens": 20},
        {
            "entropick": {
                "telemetry": "full",
                "branch": {
                    "width": 3,
                    "depth": 4,
                    "on": ["greedy", "explore", "high_uncertainty", "adaptive"],
                },
            },
            "max_tokens": 30,
        },
    ],
)
@pytest.mark.parametrize("prompt", [PROMPTS[1], PROMPTS[5]])
def test_it_is_that_of_the_rows(server: str, fields: dict[str, Any], prompt: str) -> None:
    answer = ask(server, prompt, **fields)
    for number, choice in enumerate(answer["choices"]):
        rows = choice["entropick"]["tokens"]
        # of a longer reply nothing is said, and of one whose tokens were all inserted
        if len(rows) > ERRORS.longest or all(row["forced"] for row in rows):
            assert told(answer, number) is None
        else:
            assert told(answer, number) == pytest.approx(of_reply(choice), abs=1e-9)
    summary = ask(server, prompt, **{**fields, "entropick": {**fields["entropick"], "telemetry": "summary"}})
    assert [told(summary, n) for n in range(len(answer["choices"]))] == [
        told(answer, n) for n in range(len(answer["choices"]))
    ]


def test_a_stream_tells_the_same_at_its_end(server: str) -> None:
    block = {"telemetry": "summary", "answer": "last_number"}
    body = {"messages": [{"role": "user", "content": SUMS[0]}], "seed": 11, "max_tokens": 40}
    whole = ask(server, SUMS[0], max_tokens=40, entropick=block)
    assert told(whole) is not None
    with httpx.stream(
        "POST",
        f"{server}/v1/chat/completions",
        json={**body, "stream": True, "entropick": block},
        timeout=120,
    ) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line)["choices"][0] for line in lines]
    summaries = [chunk["entropick"]["summary"] for chunk in chunks if "entropick" in chunk]
    assert [summary["error_probability"] for summary in summaries] == [told(whole)]
    assert "entropick" in chunks[-1]


def test_the_answer_is_found_by_its_tokens(server: str) -> None:
    block = {"telemetry": "tokens", "answer": "last_number"}
    answer = ask(server, SUMS[0], max_tokens=40, temperature=0, entropick=block)
    s, _ = drawn(rows_of(answer))
    mean = -sum(s) / len(s)
    (*_, number) = re.finditer(r"\d+", text_of(answer))
    at, own = 0, []
    for row in rows_of(answer):
        # pico's texts are ASCII; the end of sequence has no text of its own
        end = at + len(row["token"]) if not row.get("eos") else at
        if at < number.end() and end > number.start():
            own.append(row["signals"]["surprisal"])
        at = end
    assert own
    assert told(answer) == pytest.approx(probability(-2.0, 0.2, mean, -sum(own), 0.0), abs=1e-9)
    none = ask(
        server, SUMS[0], max_tokens=40, temperature=0, entropick={**block, "answer": {"regex": "none"}}
    )
    assert told(none) == pytest.approx(probability(-2.0, 0.2, mean, 0.0, 1.0), abs=1e-9)


def test_the_winner_of_a_vote(server: str) -> None:
    answer = voted(server, SUMS[0], {"stop": "all"})
    s, _ = drawn(rows_of(answer))
    won = verdict_of(answer)["answer"]
    assert won is not None
    agreeing = sum(reply["answer"] == won and not reply["chosen"] for reply in replies_of(answer))
    expected = probability(-3.0, 0.1, -sum(s) / len(s), agreeing / 5, math.log2(5))
    assert told(answer) == pytest.approx(expected, abs=1e-9)
    assert HOT > 1  # the replies differ, so the share is no constant


def test_nothing_is_said_of_a_longer_reply(server: str) -> None:
    block = {"policy": "fixed", "telemetry": "summary"}
    answer = ask(server, PROMPTS[2], max_tokens=80, ignore_eos=True, entropick=block)
    assert answer["usage"]["completion_tokens"] == 80
    assert told(answer) is None
