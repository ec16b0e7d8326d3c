"""Biases, bans, masks and penalties in the embedded engine: alone, together, preempted and in branches."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy
from entropick_server.engine.reply import check_request
from entropick_server.engine.types import FinishReason, GenerationDefaults, ModelInfo, Request, Token

from .conftest import END, VOCAB, Room, same

Make = Callable[..., Request]
Open = Callable[..., Room]
FIXED = PolicyConfig("fixed")
SEED = PolicyConfig(preset="seed", overrides={"clarify_budget": 0.0})
FULL = PolicyConfig("fixed", telemetry="full")
ENTROPY = SIGNAL_NAMES.index("logits_entropy")
ASKED: tuple[dict[str, Any], ...] = (
    {"presence_penalty": 2.0, "frequency_penalty": 2.0, "repetition_penalty": 100.0},
    {"presence_penalty": -2.0, "frequency_penalty": -2.0, "repetition_penalty": 0.01},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
    {"logit_bias": tuple((i, 100.0 if i % 3 else -100.0) for i in range(40))},
    {"allowed_token_ids": tuple(range(60, 90)), "min_tokens": 6, "stop_token_ids": (61, 62)},
    {"bad_words": tuple((i,) for i in range(0, 200, 2)), "min_tokens": 3},
    {},
)


def told(room: Room, *requests: Request) -> list[list[Token]]:
    for request in requests:
        room.add(request)
    room.finish()
    assert room.core.gauges().blocks_used == 0
    return [room.tokens[request.request_id] for request in requests]


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.token_id for token in tokens]


@pytest.fixture
def some(make_request: Make) -> Callable[[int], list[Request]]:
    """Requests with all adjustments in turn."""

    def made(count: int) -> list[Request]:
        rng = random.Random(count)
        return [
            make_request(
                tuple(rng.randrange(256) for _ in range(rng.randint(1, 20))),
                policy=(FIXED, SEED)[i // 7 % 2],
                seed=i,
                max_tokens=rng.randint(24, 40),
                **ASKED[i % len(ASKED)],
            )
            for i in range(count)
        ]

    return made


def test_a_request_alone_says_what_it_says_in_a_full_batch_and_behind_preemption(
    room: Open, some: Callable[[int], list[Request]]
) -> None:
    requests = some(14)
    full = told(room(), *requests)
    narrow = room(10)
    tight = told(narrow, *requests)
    assert narrow.preempted
    for request, together, preempted in zip(requests, full, tight, strict=True):
        (alone,) = told(room(), replace(request, request_id="alone"))
        same(alone, together)
        same(preempted, together)


def test_min_tokens_come_and_then_the_reply_may_end(room: Open, make_request: Make) -> None:
    wants_end = {"logit_bias": ((END, 100.0),), "stop_token_ids": (END,), "temperature": 0.0}
    for least in (0, 5):
        request = make_request(min_tokens=least, max_tokens=20, **wants_end)
        opened = room()
        (tokens,) = told(opened, request)
        assert len(tokens) == least + 1
        assert tokens[-1].token_id == END
        assert opened.ends[request.request_id] is FinishReason.STOP
        assert all(math.isfinite(token.logprob) for token in tokens)


def test_bad_words_never_come_out(room: Open, make_request: Make) -> None:
    plain = make_request(seed=3, max_tokens=40)
    (tokens,) = told(room(), plain)
    said = ids_of(tokens)
    words = ((said[9], said[10]), tuple(said[20:24]), (said[4],))
    for some in (words[:2], words):
        banned = replace(plain, request_id="banned", sampling=replace(plain.sampling, bad_words=some))
        (tokens,) = told(room(), banned)
        got = ids_of(tokens)
        # nothing changes before a beginning has come, but for a word of one token
        assert (got[:10] == said[:10]) == (some is not words)
        for word in some:
            assert not any(tuple(got[i : i + len(word)]) == word for i in range(len(got)))


def test_only_allowed_tokens_are_drawn_and_reported(room: Open, make_request: Make) -> None:
    allowed = (7, 70, 170, 270)
    request = make_request(policy=FULL, allowed_token_ids=allowed, max_tokens=12, logprobs=20)
    (tokens,) = told(room(), request)
    for token in tokens:
        assert token.token_id in allowed
        assert {i for i, _ in token.top_logprobs} == set(allowed)
        assert sum(math.exp(p) for _, p in token.top_logprobs) == pytest.approx(1, abs=1e-5)
        assert {p.token_id for p in token.most_probable} == set(allowed)
        assert (token.signals[ENTROPY] or 0.0) <= 2.0 + 1e-6
        assert not token.only_choice


@pytest.mark.parametrize("policy", [FIXED, SEED, PolicyConfig("target_entropy"), PolicyConfig("mirostat")])
def test_a_token_without_alternatives_says_so(room: Open, make_request: Make, policy: PolicyConfig) -> None:
    request = make_request(policy=policy, allowed_token_ids=(9,), presence_penalty=2.0, max_tokens=5)
    (tokens,) = told(room(), request)
    assert ids_of(tokens) == [9] * 5
    for token in tokens:
        assert token.only_choice
        assert (token.logprob, token.signals[ENTROPY]) == (0.0, 0.0)


def test_penalties_hold_for_prompt_and_output_as_the_fields_say(room: Open, make_request: Make) -> None:
    """At temperature 0 with strong penalties no token comes twice; the prompt counts for repetition alone."""
    prompt = tuple(range(0, 256, 2))
    cases: tuple[tuple[dict[str, float], bool], ...] = (
        ({"presence_penalty": 2.0}, False),
        ({"frequency_penalty": 2.0}, False),
        ({"repetition_penalty": 50.0}, True),
    )
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 30}
    (plain,) = told(room(), make_request(prompt, **greedy))
    repeats = max(Counter(ids_of(plain)).values())
    for asked, reads_prompt in cases:
        biased = {"logit_bias": tuple((i, 0.0) for i in range(VOCAB))}
        (tokens,) = told(room(), make_request(prompt, **greedy, **asked, **biased))
        got = ids_of(tokens)
        assert max(Counter(got).values()) <= repeats
        if reads_prompt:
            assert len(set(got)) == len(got)
            assert set(got).isdisjoint(prompt)


def test_what_is_measured_lies_before_the_penalties(room: Open, make_request: Make) -> None:
    """The first token of a penalised reply has the figures of a plain one, and its draw has not."""
    prompt = tuple(range(100))
    asked = {"policy": FULL, "temperature": 0.0, "max_tokens": 1}
    (plain,) = told(room(), make_request(prompt, **asked))
    best = plain[0].token_id
    (other,) = told(room(), make_request((*prompt, best)[1:], **asked, logprobs=20))
    penalised = make_request((*prompt, best)[1:], **asked, logprobs=20, repetition_penalty=100.0)
    (got,) = told(room(), penalised)
    assert got[0].signals[ENTROPY] == other[0].signals[ENTROPY]
    assert got[0].top_logprobs == other[0].top_logprobs
    chances = {p.token_id: p.final_probability for p in got[0].most_probable}
    assert chances[got[0].token_id] == 1.0
    assert sum(chances.values()) == 1.0


@pytest.mark.parametrize("asked", ASKED[:6], ids=range(6))
def test_branches_and_choices_count_their_own_tokens(
    room: Open, make_request: Make, asked: dict[str, Any]
) -> None:
    """A branch's rollout is the continuation that a request without branches would make of its tokens."""
    everywhere = frozenset(set(Strategy) - {Strategy.CLARIFY})
    branch = BranchConfig(width=3, depth=4, on=everywhere, budget=16.0)
    policy = replace(SEED, branch=branch)
    request = make_request(policy=policy, seed=5, max_tokens=16, **asked)
    crowd = [make_request(policy=FIXED, seed=i, max_tokens=20, **ASKED[i]) for i in range(6)]
    (alone,) = told(room(), request)
    together = told(room(), replace(request, request_id="crowded"), *crowd)[0]
    same(together, alone)
    assert any(token.branches for token in alone)
    if "bad_words" in asked:
        assert not {i for t in alone for b in t.branches for i in b.token_ids} & {
            w[0] for w in asked["bad_words"]
        }
    if "allowed_token_ids" in asked:
        assert {i for t in alone for b in t.branches for i in b.token_ids} <= set(asked["allowed_token_ids"])


def test_a_request_that_no_reply_can_fulfil_is_refused(make_request: Make) -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"logit_bias": ((VOCAB, 1.0),)}, "logit_bias"),
        ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
        ({"allowed_token_ids": (-1,)}, "allowed_token_ids"),
        ({"allowed_token_ids": (5,), "bad_words": ((5,),)}, "allowed_token_ids"),
        ({"allowed_token_ids": (5,), "stop_token_ids": (5,), "min_tokens": 1}, "min_tokens"),
        ({"bad_words": ((1, VOCAB),)}, "bad_words"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty"),
    )
    info = ModelInfo("m", "", "", 256, VOCAB, (END,), (0,), 1, "float32", "cpu", GenerationDefaults(), 0)
    for asked, name in bad:
        with pytest.raises(ValueError, match=f"^{name}: "):
            check_request(make_request(**asked), info, None)
    check_request(make_request(allowed_token_ids=(5, 6), bad_words=((5,), (6, 6)), min_tokens=8), info, None)


def test_a_clarifying_text_that_bans_would_cut_is_not_inserted(room: Open, make_request: Make) -> None:
    always = PolicyConfig(preset="seed", overrides={"clarify_entropy": 0.0, "clarify_varentropy": 4096.0})
    (tokens,) = told(room(), make_request(policy=always, max_tokens=12))
    text = [t.token_id for t in tokens if t.forced]
    assert text
    for asked in ({"bad_words": ((1, text[2]),)}, {"allowed_token_ids": tuple(range(text[0]))}):
        (tokens,) = told(room(), make_request(policy=always, max_tokens=12, **asked))
        assert not any(t.forced for t in tokens)
        assert all(math.isfinite(t.logprob) for t in tokens)
