"""Finished requests replayed and explained: the same text and figures wherever they are told."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import httpx
import pytest

from entropick_sampler.branch_config import BRANCH_STRATEGIES
from entropick_sampler.one_formula import ONE_FORMULA
from entropick_server.inspection import command

PROMPTS = (
    "What is the capital of Falnia?",
    "Tell me a story.",
    "What color is it?",
    "Who lives in Ashfield?",
    "Describe the town.",
)
REQUESTS = 50
BRANCH = {"width": 3, "depth": 4, "on": list(BRANCH_STRATEGIES)}
BLOCKS: tuple[dict[str, Any], ...] = (
    {},
    {"preset": "seed"},
    {"preset": "seed", "branch": BRANCH},
    {"branch": {**BRANCH, "scorer": "confidence", "budget": 0.5}},
    {"overrides": {"loop_length": 2, "loop_temperature": 1.2, "clarify_cooldown": 4, "clarify_budget": 3}},
    {"preset": "seed", "overrides": {"clarify_entropy": 0.5, "clarify_varentropy": 64, "explore_entropy": 0}},
    {"policy": "fixed"},
    {"consensus": {"extract": "text", "k": 3}},
    {"genuineness": True},
    *({"policy": name} for name in ONE_FORMULA),
)
FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0.8},
    {"temperature": 1.4, "top_p": 0.9, "top_k": 20},
    {"temperature": 1.0, "min_p": 0.05, "stop": [" the", "."]},
    {"n": 2, "temperature": 1.1},
    {"ignore_eos": True, "logprobs": True},
    {"frequency_penalty": 0.8, "repetition_penalty": 1.2, "logit_bias": {"40": 2.5, "300": -50}},
    {"bad_words": ["the", "is"], "min_tokens": 6, "allowed_token_ids": list(range(3, 1200))},
)


def mixed() -> list[tuple[str, dict[str, Any]]]:
    """Fifty requests that combine policies, sampling fields and both routes."""
    pick = random.Random(5)
    made = []
    for number in range(REQUESTS):
        block, fields = dict(BLOCKS[number % len(BLOCKS)]), dict(pick.choice(FIELDS))
        if "consensus" in block:
            fields = {"temperature": 0.9}
        body = {"max_tokens": pick.choice((8, 20, 33)), **fields}
        if number % 3:
            body["seed"] = pick.randrange(1 << 40)
        body["entropick"] = {"telemetry": pick.choice(("tokens", "full")), **block}
        if number % 4 == 3:
            body.pop("logprobs", None)
            made.append(("/v1/completions", {"prompt": pick.choice(PROMPTS), **body}))
        else:
            message = {"role": "user", "content": pick.choice(PROMPTS)}
            made.append(("/v1/chat/completions", {"messages": [message], **body}))
    return made


def inspect(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = command.run([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def check_series(rows: list[dict[str, Any]], series: dict[str, list[Any]]) -> None:
    """The answer's rows and the ring's columns, number by number."""
    assert [row["token_id"] for row in rows] == series["token_id"]
    for n, row in enumerate(rows):
        for name in ("index", "token", "strategy", "forced"):
            assert row[name] == series[name][n]
        flat = {**(row["parameters"] or {}), **row["signals"]}
        for name, column in series.items():
            if name not in ("index", "token", "token_id", "strategy", "forced"):
                assert column[n] == flat.get(name), name


def test_fifty_of_fifty(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every request is replayed to the token, and all that tell of its series tell the same numbers."""
    openings = texts = 0
    with httpx.Client(base_url=server, timeout=300) as client:
        for route, body in mixed():
            answer = client.post(route, json=body)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            ring = client.get(f"/v1/requests/{told['id']}").json()["choices"]
            _, explained = inspect(capsys, "explain", told["id"], "--url", server)
            for choice in told["choices"]:
                summary = choice["entropick"]["summary"]
                number = summary["choice"] if "consensus" in summary else choice["index"]
                entry = next(entry for entry in ring if entry["choice"] == number)
                text = choice["message"]["content"] if "message" in choice else choice["text"]
                assert entry["text"] == text
                check_series(choice["entropick"]["tokens"], entry["series"])
                words = next(c for c in explained["choices"] if c["choice"] == number)
                check_series(words["tokens"], entry["series"])
                assert words["policy_parameters"] == entry["policy_parameters"]
                openings += len(entry["branches"])
                texts += sum(f and s == "clarify" for f, s in zip(*two(entry), strict=True))
            code, outcomes = inspect(capsys, "replay", told["id"], "--url", server)
            assert code == 0, (body, outcomes)
            assert [outcome["choice"] for outcome in outcomes] == [entry["choice"] for entry in ring]
            assert all(outcome["equal"] and outcome["same_text"] for outcome in outcomes)
    # it was worth while
    assert openings > 3
    assert texts > 3


def two(entry: dict[str, Any]) -> tuple[list[bool], list[str | None]]:
    return entry["series"]["forced"], entry["series"]["strategy"]


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"]}
TOOL = {"type": "function", "function": {"name": "get_age", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
        {"structured_outputs": {"regex": "[a-z]{3,8}( [a-z]{2,5})?"}},
        {"guided_choice": ["red", "green", "blue"]},
        {"tools": [TOOL], "tool_choice": "required"},
    ],
)
def test_a_reply_with_a_form_is_replayed_in_it(
    server: str, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    message = {"role": "user", "content": "how old is anna?"}
    body = {"messages": [message], "max_tokens": 60, "seed": 8, "temperature": 1, **fields}
    with httpx.Client(base_url=server, timeout=300) as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        code, outcomes = inspect(capsys, "replay", answer.json()["id"], "--url", server)
        assert code == 0, json.dumps(outcomes)
        assert outcomes[0]["equal"]
        assert outcomes[0]["tokens"]


def test_a_rewound_reply_is_replayed_too(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Kept tokens and the token that was named are part of what is run again."""
    body = {
        "messages": [{"role": "user", "content": PROMPTS[1]}],
        "max_tokens": 30,
        "seed": 3,
        "temperature": 0.9,
        "entropick": {"telemetry": "full"},
    }
    chat = "/v1/chat/completions"
    with httpx.Client(base_url=server, timeout=300) as client:
        whole = client.post(chat, json=body).json()
        rows = whole["choices"][0]["entropick"]["tokens"]
        assert len(rows) > 12
        candidates = rows[6]["most_probable"]
        other = next(c["token_id"] for c in candidates if c["token_id"] != rows[6]["token_id"])
        for token_id in (rows[6]["token_id"], other):
            rewind = {"request": whole["id"], "index": 6, "token_id": token_id}
            asked = {**body, "entropick": {"telemetry": "tokens", "rewind": rewind}}
            again = client.post(chat, json=asked).json()
            got = again["choices"][0]["entropick"]["tokens"]
            assert (got[0]["token_id"], got[0]["forced"], got[0]["index"]) == (token_id, True, 6)
            if token_id == rows[6]["token_id"]:
                assert [row["token_id"] for row in got] == [row["token_id"] for row in rows[6:]]
            entropies = [row["signals"]["logits_entropy"] for row in (got[0], rows[6])]
            assert math.isclose(*entropies, rel_tol=1e-3, abs_tol=1e-3)
            (entry,) = client.get(f"/v1/requests/{again['id']}").json()["choices"]
            assert entry["kept_token_ids"] == [row["token_id"] for row in rows[:6]]
            code, outcomes = inspect(capsys, "replay", again["id"], "--url", server)
            assert (code, outcomes[0]["equal"]) == (0, True), outcomes


def test_the_prefix_cache_serves_a_rewind(server: str) -> None:
    body = {
        "prompt": " ".join(PROMPTS * 3),
        "max_tokens": 40,
        "seed": 3,
        "temperature": 1.0,
        "ignore_eos": True,
        "entropick": {"telemetry": "tokens", "policy": "fixed"},
    }
    with httpx.Client(base_url=server, timeout=300) as client:
        whole = client.post("/v1/completions", json=body).json()
        rewind = {"request": whole["id"], "index": 36}
        asked = {**body, "entropick": {**body["entropick"], "rewind": rewind}}  # type: ignore[dict-item]
        usage = client.post("/v1/completions", json=asked).json()["usage"]
        assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"] + 36
        # all but the last, unfinished block
        assert usage["prompt_tokens_details"]["cached_tokens"] >= whole["usage"]["prompt_tokens"]


def test_errors_of_the_commands(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["explain", "nothing", "--url", server]) == 2
    assert "404: No finished request of this id is remembered." in capsys.readouterr().err
    assert command.run(["replay", "x", "--url", "http://127.0.0.1:9"]) == 2
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
