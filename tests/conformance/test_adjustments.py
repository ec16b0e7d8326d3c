"""Penalties, biases, bans and allowed tokens, asked over HTTP of every engine."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

PROMPTS = ("Once upon a time", "The capital of Falnia is", "Add 27 and 58.", "Tell me a story about a fox.")


def complete(url: str, prompt: str | list[int] = PROMPTS[0], **fields: Any) -> dict[str, Any]:
    """The choice of a completion with rows."""
    body = {"prompt": prompt, "seed": 4, "max_tokens": 24, "entropick": {"telemetry": "tokens"}, **fields}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]  # type: ignore[no-any-return]


def ids_of(choice: dict[str, Any]) -> list[int]:
    return [row["token_id"] for row in choice["entropick"]["tokens"]]


def tokenize(url: str, text: str) -> list[int]:
    return httpx.post(f"{url}/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]  # type: ignore[no-any-return]


def asked(number: int) -> dict[str, Any]:
    """Adjustments of a request by its number: all kinds, alone and together."""
    rng = random.Random(number)
    fields: dict[str, Any] = {"seed": number, "temperature": rng.choice([0, 0.7, 1.3]), "max_tokens": 16}
    if number % 2:
        fields["frequency_penalty"], fields["presence_penalty"] = rng.uniform(-1, 2), rng.uniform(-1, 2)
    if number % 3 == 0:
        fields["repetition_penalty"] = rng.choice([0.8, 1.1, 1.5])
    if number % 5 == 0:
        fields["logit_bias"] = {str(rng.randrange(1500)): rng.uniform(-20, 20) for _ in range(30)}
    if number % 7 == 0:
        fields["allowed_token_ids"] = rng.sample(range(1600), 300)
    if number % 4 == 0:
        fields["bad_words"] = ["a", "the", "town of", "is"]
    if number % 6 == 0:
        fields["min_tokens"] = 12
    policies = ({"policy": "fixed"}, {"preset": "seed"}, {"policy": "edt"}, {})
    fields["entropick"] = {**policies[number % 4], "telemetry": "tokens"}
    if number % 10 == 9:
        fields["entropick"] |= {"policy": "entropix", "branch": {"width": 3, "depth": 4, "budget": 8}}
    return fields


def test_each_field_does_what_it_says(server: str) -> None:
    plain = ids_of(complete(server, ignore_eos=True))
    word = tokenize(server, " little")
    biased = complete(server, logit_bias={str(word[0]): 100})
    assert ids_of(biased) == [word[0]] * 24
    assert biased["entropick"]["tokens"][0]["signals"]["logits_entropy"] < 1e-3
    only = sorted(set(plain))[:3]
    assert set(ids_of(complete(server, allowed_token_ids=only, ignore_eos=True))) <= set(only)
    ends = complete(
        server, allowed_token_ids=[*only, plain[0]], stop_token_ids=only, min_tokens=7, temperature=0
    )
    assert len(ids_of(ends)) >= 7
    flat = {
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": 40,
        "entropick": {"policy": "fixed", "telemetry": "tokens"},
    }
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 30}):
        often = Counter(ids_of(complete(server, **flat, **penalty))).most_common(1)[0][1]
        assert often <= Counter(ids_of(complete(server, **flat))).most_common(1)[0][1]
        assert often == 1 or "repetition_penalty" not in penalty


def test_bad_words_do_not_come_out(server: str) -> None:
    text = complete(server, temperature=0, max_tokens=40, ignore_eos=True)["text"]
    words = [word for word in text.split() if word.isalpha()][:4]
    assert len(words) == 4
    for word in words:
        other = complete(server, temperature=0, max_tokens=40, ignore_eos=True, bad_words=[word])
        banned = {tuple(tokenize(server, prefix + word)) for prefix in ("", " ")}
        got = ids_of(other)
        assert not any(tuple(got[i : i + len(b)]) == b for b in banned for i in range(len(got)))


def test_no_stop_string_counts_within_min_tokens(server: str) -> None:
    plain = complete(server, ignore_eos=True)
    early = plain["text"][:4].strip()
    assert early
    stopped = complete(server, stop=early, ignore_eos=True)
    assert len(ids_of(stopped)) < 5
    later = complete(server, stop=early, min_tokens=10, ignore_eos=True)
    assert ids_of(later)[:10] == ids_of(plain)[:10]
    assert later["text"].startswith(plain["text"][:4])


def test_a_token_without_alternatives(server: str) -> None:
    choice = complete(server, allowed_token_ids=[50], max_tokens=3, logprobs=5, presence_penalty=2)
    assert ids_of(choice) == [50] * 3
    assert choice["logprobs"]["token_logprobs"] == [0.0] * 3
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [1] * 3
    for row in choice["entropick"]["tokens"]:
        assert row["signals"]["logits_entropy"] == row["signals"]["surprisal"] == 0.0


def test_log_probabilities_are_those_of_the_allowed_tokens_before_penalties(server: str) -> None:
    allowed = list(range(300, 308))
    for penalties in ({}, {"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 3}):
        choice = complete(
            server, allowed_token_ids=allowed, logprobs=20, max_tokens=6, temperature=0, **penalties
        )
        for top in choice["logprobs"]["top_logprobs"]:
            assert len(top) <= 8
            assert sum(map(math.exp, top.values())) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("limit", [1, -1])
@pytest.mark.parametrize("preset", ["seed", "calibrated"])
def test_penalties_at_their_limits_with_the_adaptive_sampler(server: str, limit: int, preset: str) -> None:
    adaptive = {
        "greedy_entropy": 0,
        "clarify_entropy": 64,
        "explore_entropy": 0,
        "high_uncertainty_entropy": 64,
    }
    fields: dict[str, Any] = {
        "presence_penalty": 2 * limit,
        "frequency_penalty": 2 * limit,
        "repetition_penalty": 100 if limit > 0 else 0.01,
        "logit_bias": {str(i): 100 * limit for i in range(0, 1000, 7)},
        "entropick": {"preset": preset, "overrides": adaptive, "telemetry": "full"},
    }
    choice = complete(server, max_tokens=64, ignore_eos=True, **fields)
    assert len(ids_of(choice)) == 64
    assert all(math.isfinite(row["signals"]["surprisal"]) for row in choice["entropick"]["tokens"])
    assert complete(server)["text"]


def test_alone_and_in_company(server: str) -> None:
    count = 20
    with ThreadPoolExecutor(count) as pool:
        together = list(pool.map(lambda i: complete(server, PROMPTS[i % 4], **asked(i)), range(count)))
    for i in range(0, count, 3):
        assert ids_of(complete(server, PROMPTS[i % 4], **asked(i))) == ids_of(together[i])


def test_choices_count_their_own_tokens(server: str) -> None:
    fields = {**asked(9), "temperature": 1.0, "entropick": {"policy": "fixed", "telemetry": "tokens"}}
    body = {"prompt": PROMPTS[0], "n": 4, **fields}
    choices = httpx.post(f"{server}/v1/completions", json=body, timeout=120).json()["choices"]
    assert ids_of(choices[0]) == ids_of(complete(server, **fields))
    assert len({tuple(ids_of(choice)) for choice in choices}) > 1
    more = httpx.post(f"{server}/v1/completions", json={**body, "n": 2}, timeout=120).json()["choices"]
    assert [ids_of(choice) for choice in more] == [ids_of(choice) for choice in choices[:2]]


def test_a_rewound_reply_goes_on_with_its_counts(server: str) -> None:
    fields = {"frequency_penalty": 1.5, "repetition_penalty": 1.2, "bad_words": ["and"], "temperature": 1.0}
    whole = ids_of(complete(server, **fields, entropick={"policy": "fixed", "telemetry": "tokens"}))
    kept = {"policy": "fixed", "telemetry": "tokens", "rewind": {"token_ids": whole[:9]}}
    rest = ids_of(complete(server, **fields, entropick=kept))
    assert rest[-len(whole[9:]) :] == whole[9:]


@pytest.mark.skipif(not find_spec("vllm"), reason="needs both engines")
@pytest.mark.parametrize(("other", "count"), [("vllm", 100), ("vllm-v2", 20)])
def test_the_engines_say_the_same(running: Callable[[str], Any], other: str, count: int) -> None:
    urls = [running(engine).url for engine in ("torch", other)]
    for i in range(count):
        one, two = (complete(url, PROMPTS[i % 4], **asked(i)) for url in urls)
        assert ids_of(one) == ids_of(two), asked(i)
        for a, b in zip(one["entropick"]["tokens"], two["entropick"]["tokens"], strict=True):
            for name in ("logits_entropy", "surprisal"):
                assert a["signals"][name] == pytest.approx(b["signals"][name], abs=2e-4)
