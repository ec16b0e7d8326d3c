"""Log probabilities of given texts, as evaluation harnesses ask for them, against a pass of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropick_pico import model_path

PAIRS = [
    ("Question: What is the capital of Avaria?\nAnswer:", " The capital is Ashfield."),
    ("The harbor of the town lies in the", " north"),
    ("The harbor of the town lies in the", " of of of zebra ÄÖ🙂"),
    ("A long beginning. " * 30, " and its end"),
]


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Any, Any]]:
    """The shipped model and its tokenizer in transformers, in float64."""
    loaded = AutoModelForCausalLM.from_pretrained(
        model_path(), dtype=torch.float64, attn_implementation="eager"
    )
    with torch.inference_mode():
        yield loaded.eval(), AutoTokenizer.from_pretrained(model_path())


def logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """Log probabilities [T - 1, V] of what follows each token."""
    found: torch.Tensor = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return found


def asked(server: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server}/v1/completions", json=fields, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_loglikelihood_as_lm_eval_computes_it(server: str, model: tuple[Any, Any]) -> None:
    """One token is drawn and dropped; a continuation is greedy where each token has the largest value."""
    network, tokenizer = model
    greedy = 0
    pairs = [(tokenizer.encode(a), tokenizer.encode(b, add_special_tokens=False)) for a, b in PAIRS]
    likeliest = [*pairs[0][0]]
    for _ in range(4):
        likeliest.append(int(network(torch.tensor([likeliest])).logits[0, -1].argmax()))
    pairs.append((pairs[0][0], likeliest[len(pairs[0][0]) :]))
    for before, after in pairs * 2:  # the second time beside the prefix cache
        ids = [*before, *after]
        answer = asked(server, prompt=[ids], temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
        rows = answer["choices"][0]["logprobs"]
        kept = slice(len(before), -1)
        assert len(rows["token_logprobs"]) == len(ids) + 1
        wanted = logprobs(network, ids)[len(before) - 1 :]
        own = wanted.gather(-1, torch.tensor(ids[len(before) :])[:, None])[:, 0]
        assert rows["token_logprobs"][kept] == pytest.approx(own.tolist(), abs=1e-4)
        assert sum(rows["token_logprobs"][kept]) == pytest.approx(float(own.sum()), abs=1e-4 * len(own))
        told = zip(rows["token_logprobs"][kept], rows["top_logprobs"][kept], strict=True)
        is_greedy = all(logprob == max(top.values()) for logprob, top in told)
        assert is_greedy == bool((wanted.argmax(-1) == torch.tensor(ids[len(before) :])).all())
        greedy += is_greedy
    assert 2 <= greedy < len(pairs) * 2, "both outcomes should occur"


def test_a_prompt_alone(server: str, model: tuple[Any, Any]) -> None:
    network, tokenizer = model
    text = "".join(PAIRS[0])
    fields = {"prompt": text, "max_tokens": 0, "logprobs": 5, "echo": True}
    answer = asked(server, **fields)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    assert answer["usage"]["completion_tokens"] == 0
    rows, ids = choice["logprobs"], tokenizer.encode(text)
    wanted = logprobs(network, ids)
    assert rows["token_logprobs"][0] is rows["top_logprobs"][0] is None
    own = wanted.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert rows["token_logprobs"][1:] == pytest.approx(own.tolist(), abs=1e-4)
    for token, offset in zip(rows["tokens"], rows["text_offset"], strict=True):
        assert token.startswith("bytes:") or text[offset:].startswith(token) or token in ("", "<s>")
    for top, of_place in zip(rows["top_logprobs"][1:], wanted, strict=True):
        assert max(top.values()) == pytest.approx(float(of_place.max()), abs=1e-4)
        assert 5 <= len(top) <= 6
    lines = httpx.post(f"{server}/v1/completions", json={**fields, "stream": True}, timeout=60).text
    events = [json.loads(line[6:]) for line in lines.split("\n\n") if line.startswith("data: {")]
    streamed = [c for event in events for c in event["choices"]]
    assert "".join(c["text"] for c in streamed) == text
    assert streamed[0]["logprobs"] == rows


def test_prompt_logprobs(server: str, model: tuple[Any, Any]) -> None:
    network, tokenizer = model
    text = PAIRS[3][0]
    ids = tokenizer.encode(text)
    for _ in range(2):
        answer = asked(server, prompt=text, max_tokens=2, prompt_logprobs=3, return_token_ids=True)
        choice = answer["choices"][0]
        assert choice["prompt_token_ids"] == ids
        assert len(choice["token_ids"]) == answer["usage"]["completion_tokens"]
        rows = choice["prompt_logprobs"]
        assert rows[0] is None
        for token, row, of_place in zip(ids[1:], rows[1:], logprobs(network, ids), strict=True):
            assert row[str(token)]["logprob"] == pytest.approx(float(of_place[token]), abs=1e-4)
            rank = int((of_place >= of_place[token]).sum())
            assert abs(row[str(token)]["rank"] - rank) <= 1
            best = {int(i) for i in of_place.topk(3).indices}
            assert {*map(int, row)} == best | {token}
