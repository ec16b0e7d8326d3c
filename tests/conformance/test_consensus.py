"""Votes on every engine, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from .test_conformance import ask, client_of, post, rows_of, settled, text_of

HOT = 2.0
"""pico is sure of its sums: only so do its replies differ"""
SUMS = (
    "Add 27 and 58. Think step by step.",
    "Add 64 and 19. Think step by step.",
    "Sort the digits 3 1 2 5.",
)


def voted(url: str, prompt: str, consensus: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A vote over replies that differ."""
    block = {
        "policy": "fixed",
        "telemetry": "full",
        "consensus": {"extract": "last_number", "k": 6, **(consensus or {})},
    }
    return ask(url, prompt, temperature=HOT, max_tokens=40, entropick=block, **fields)


def replies_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return answer["choices"][0]["entropick"]["replies"]  # type: ignore[no-any-return]


def verdict_of(answer: dict[str, Any]) -> dict[str, Any]:
    return answer["choices"][0]["entropick"]["summary"]["consensus"]  # type: ignore[no-any-return]


def test_a_vote_and_its_winner(server: str) -> None:
    answer = voted(server, SUMS[0], {"stop": "all"})
    replies, verdict = replies_of(answer), verdict_of(answer)
    assert verdict["replies"] == len(replies) == 6
    assert len({reply["text"] for reply in replies}) > 1
    (winner,) = (reply for reply in replies if reply["chosen"])
    assert winner["text"] == text_of(answer)
    assert winner["answer"] == verdict["answer"]
    assert winner["token_ids"] == [row["token_id"] for row in rows_of(answer)]
    assert winner["weight"] == pytest.approx(
        max(r["weight"] for r in replies if r["answer"] == verdict["answer"]), abs=1e-4
    )
    for_it = sum(r["weight"] for r in replies if r["answer"] == verdict["answer"])
    assert verdict["share"] == pytest.approx(for_it / sum(r["weight"] for r in replies))
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(winner["token_ids"])
    assert usage["completion_tokens_details"]["consensus_tokens"] == sum(
        len(reply["token_ids"]) for reply in replies if not reply["chosen"]
    )
    settled(server)


def test_reply_i_is_choice_i_and_reply_0_greedy(server: str) -> None:
    replies = [reply["text"] for reply in replies_of(voted(server, SUMS[0], {"stop": "all"}))]
    fields: dict[str, Any] = {"max_tokens": 40, "entropick": {"policy": "fixed"}}
    choices = ask(server, SUMS[0], temperature=HOT, n=6, **fields)["choices"]
    greedy = text_of(ask(server, SUMS[0], temperature=0, **fields))
    assert replies == [greedy, *(choice["message"]["content"] for choice in choices[1:])]


@pytest.mark.parametrize("stop", ["cascade", "weighted_beta", {"rule": "esc", "window": 2}])
def test_alone_and_in_company(server: str, stop: Any) -> None:
    bodies = [(prompt, seed) for prompt in SUMS for seed in (1, 2)]

    def one(body: tuple[str, int]) -> dict[str, Any]:
        return voted(server, body[0], {"stop": stop}, seed=body[1])

    alone = [one(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(one, bodies))
    for a, b in zip(alone, together, strict=True):
        assert text_of(a) == text_of(b)
        assert verdict_of(a)["reason"] == verdict_of(b)["reason"]
        assert [r["text"] for r in replies_of(a)] == [r["text"] for r in replies_of(b)]
        assert a["usage"]["completion_tokens_details"] == b["usage"]["completion_tokens_details"]
    settled(server)


def test_streamed_and_plain(server: str) -> None:
    client = client_of(server)
    fields: dict[str, Any] = {
        "model": "pico",
        "messages": [{"role": "user", "content": SUMS[0]}],
        "seed": 5,
        "temperature": HOT,
        "max_tokens": 40,
        "stop": ["="],
        "extra_body": {
            "entropick": {"policy": "fixed", "telemetry": "tokens", "consensus": {"extract": "text", "k": 4}}
        },
    }
    plain = client.chat.completions.create(**fields)
    text, rows, usage = "", [], None
    stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            rows += (getattr(choice, "entropick", None) or {}).get("tokens") or []
    assert text == plain.choices[0].message.content
    assert "=" not in text
    assert [row["token_id"] for row in rows] == [
        row["token_id"]
        for row in plain.choices[0].entropick["tokens"]  # type: ignore[attr-defined]
    ]
    assert usage is not None
    assert plain.usage is not None
    assert usage.completion_tokens_details == plain.usage.completion_tokens_details


def test_refusals(server: str) -> None:
    vote = {"consensus": {"extract": "last_number"}}
    for fields, param in (
        ({"n": 2}, "n"),
        ({"temperature": 0}, "temperature"),
        ({"entropick": {**vote, "branch": {"width": 2}}}, "entropick.branch"),
    ):
        answer = post(server, SUMS[0], **{"entropick": vote, **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_client_that_leaves_cancels_every_reply(server: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 300,
        "entropick": {"consensus": {"extract": "text", "k": 6, "stop": {"rule": "esc", "window": 3}}},
    }
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body, timeout=120) as response:
        # the first wave is over, the second runs
        assert next(line for line in response.iter_lines() if "3 of 3" in line)
    settled(server)
    answer = voted(server, SUMS[0])
    assert json.dumps(answer)


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make test-vllm)")
@pytest.mark.parametrize("other", ["vllm", "vllm-v2"])
def test_the_engines_say_the_same(running: Callable[[str], Any], other: str) -> None:
    ours, theirs = running("torch").url, running(other).url
    for seed, prompt in enumerate(SUMS):
        a, b = (voted(url, prompt, seed=seed) for url in (ours, theirs))
        assert text_of(a) == text_of(b)
        assert [r["text"] for r in replies_of(a)] == [r["text"] for r in replies_of(b)]
        mine, its = ([r["weight"] for r in replies_of(answer)] for answer in (a, b))
        assert mine == pytest.approx(its, abs=1e-3)
        assert verdict_of(a)["answer"] == verdict_of(b)["answer"]
        assert a["usage"]["completion_tokens_details"] == b["usage"]["completion_tokens_details"]
