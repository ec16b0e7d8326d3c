"""The engine without its thread, on caches that are too small: every text is the one a request gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import STEP_SIGNALS
from entropick_server.engine.embedded.batch import Batch
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.model_runner import ModelRunner
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.types import FinishReason, Request, Token

from .conftest import BLOCK, Room, same, same_signals, several

Make = Callable[..., Request]
FIXED = PolicyConfig(policy="fixed")
SEED = PolicyConfig(preset="seed")
CLARIFY = PolicyConfig(
    preset="seed",
    overrides={
        "clarify_entropy": 0.0,
        "clarify_varentropy": 4096.0,
        "greedy_entropy": 0.0,
        "clarify_cooldown": 9,
        "clarify_budget": 2,
    },
)
KINDS = (FIXED, SEED, CLARIFY)


@pytest.mark.parametrize(
    ("seed", "name", "caching"),
    [(0, "llama", True), (1, "llama", True), (2, "llama", False), (3, "gemma2", True), (4, "qwen3", True)],
)
def test_under_pressure_every_text_is_the_one_it_has_alone(
    seed: int, name: str, caching: bool, room: Callable[..., Room], make_request: Make
) -> None:
    rng = random.Random(seed)
    requests = several(make_request, 9, rng, 40, (35, 70), KINDS)
    small = room(18, name, max_num_seqs=5, max_num_batched_tokens=30, enable_prefix_caching=caching)
    for request in requests:
        small.add(request)
        for _ in range(rng.randint(0, 12)):
            small.step()
    small.finish()
    assert len(small.preempted) > 3
    assert len(set(small.preempted)) > 1
    if caching:
        assert small.hits > 0
        assert small.core._scheduler._pool.evictions > 0
        assert small.queries == sum(len(r.prompt_token_ids) for r in requests)
        assert small.hits == sum(small.cached.values())
    else:
        assert small.queries == small.hits == 0
    assert small.core.gauges().blocks_used == 0
    assert any(t.forced for tokens in small.tokens.values() for t in tokens)
    clarified = False
    for request in requests:
        alone = room(name=name)
        alone.add(request)
        alone.finish()
        same(small.tokens[request.request_id], alone.tokens[request.request_id])
        assert small.ends[request.request_id] is alone.ends[request.request_id] is FinishReason.LENGTH
        assert len(alone.tokens[request.request_id]) == request.sampling.max_tokens
        clarified |= request.request_id in small.preempted and request.policy is CLARIFY
    assert clarified, "a request with clarifying texts was preempted"


@pytest.mark.parametrize("caching", [True, False])
def test_giving_a_place_up_changes_no_text(
    caching: bool, room: Callable[..., Room], make_request: Make
) -> None:
    requests = several(make_request, 10, random.Random(8), 40, (40, 70), KINDS)
    shares = [replace(request, share=str(i % 3)) for i, request in enumerate(requests)]
    large = room(400, max_num_seqs=3, enable_prefix_caching=caching)
    for request in shares:
        large.add(request)
    large.finish()
    assert len(set(large.preempted)) > 3, "places changed hands though no block was missing"
    for request in shares:
        alone = room()
        alone.add(request)
        alone.finish()
        same(large.tokens[request.request_id], alone.tokens[request.request_id])


def test_a_chat_goes_on_from_the_blocks_of_its_last_turn(
    room: Callable[..., Room], make_request: Make
) -> None:
    warm = room()
    prompt = tuple(range(30))
    first = make_request(prompt, max_tokens=21, seed=3)
    warm.add(first)
    warm.finish()
    assert warm.cached[first.request_id] == 0
    turn = (*prompt, *warm.text(first.request_id), 7, 8, 9)
    # the same beginning asked for in other ways: the blocks do not depend on them
    requests = [
        make_request(turn, policy=policy, seed=11, max_tokens=12, temperature=t, logprobs=2)
        for policy, t in ((FIXED, 0.8), (SEED, 1.0), (CLARIFY, 1.0), (FIXED, 0.0))
    ]
    for request in requests:
        warm.add(request)
        warm.finish()
        # 30 + 21 tokens, of which the last was never fed: 6 full blocks of 8
        assert warm.cached[request.request_id] >= 48
        cold = room(enable_prefix_caching=False)
        cold.add(request)
        cold.finish()
        same(warm.tokens[request.request_id], cold.tokens[request.request_id])
    assert warm.core.gauges().blocks_used == 0


def test_forced_tokens_are_measured_alike_over_known_blocks(
    room: Callable[..., Room], make_request: Make
) -> None:
    warm = room()
    prompt, given = tuple(range(20)), tuple(range(60, 90))
    requests = [make_request(prompt, forced=given), make_request((*prompt, *given[:20]), forced=given[20:])]
    for request in requests:
        warm.add(request)
        warm.finish()
    first, second = (warm.tokens[r.request_id] for r in requests)
    assert warm.cached[requests[1].request_id] == 32
    # the windows of the second reply begin with its own first step
    without = ([replace(t, signals=t.signals[: len(STEP_SIGNALS)]) for t in r] for r in (second, first[20:]))
    same(*without)


@pytest.mark.parametrize("policy", [FIXED, SEED, CLARIFY])
def test_branches_go_on_as_their_parent_and_leave_it_alone(
    policy: PolicyConfig, room: Callable[..., Room], make_request: Make
) -> None:
    request = make_request(tuple(range(13)), policy=policy, seed=5, max_tokens=60)
    alone = room()
    alone.add(request)
    alone.finish()
    for steps in (1, 4, 12, 13):
        forked = room()
        forked.add(request)
        for _ in range(steps):
            forked.step()
        parent = forked.row(request.request_id)
        used = forked.core.gauges().blocks_used
        branches = forked.core.fork(parent, 3)
        assert [b.branch for b in branches] == [1, 2, 3]
        assert forked.core.gauges().blocks_used - used == (3 if parent.computed % BLOCK else 0)
        for _ in range(20):
            forked.step()
        # drawn with numbers of their own, measured over the same beginning
        replies = {tuple(row.tokens[13 + steps :]) for row in (parent, *branches)}
        assert len(replies) == 4 or policy is CLARIFY
        assert forked.text(request.request_id) == alone.text(request.request_id)[:steps]
        for branch in branches:
            check_by_replay(room(), make_request, branch)
            forked.core.drop(branch)
        forked.finish()
        same(forked.tokens[request.request_id], alone.tokens[request.request_id])
        assert forked.core.gauges().blocks_used == 0


def check_by_replay(fresh: Room, make: Make, row: Sequence) -> None:
    """A row's kept tokens have the figures that forcing them on a fresh engine gives."""
    prompt = row.request.prompt_token_ids
    replay = make(prompt, forced=tuple(row.tokens[len(prompt) :]))
    fresh.add(replay)
    fresh.finish()
    wanted = fresh.tokens[replay.request_id][-len(row.undelivered) :]
    assert len(row.undelivered) > 10
    for a, b in zip(row.undelivered, wanted, strict=True):
        assert a.token_id == b.token_id
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        same_signals(a, b)


@pytest.mark.parametrize("winner", [0, 1, 3])
def test_an_adopted_branch_is_the_reply_also_under_pressure(
    winner: int, room: Callable[..., Room], make_request: Make
) -> None:
    request = make_request(tuple(range(13)), policy=CLARIFY, seed=5, max_tokens=50)
    others = several(make_request, 6, random.Random(1), 30, (30, 60), KINDS)

    def told(crowded: bool) -> list[Token]:
        here = room(18 if crowded else 400, max_num_seqs=6)
        here.add(request)
        for other in others if crowded else ():
            here.add(other)
        while len(here.tokens[request.request_id]) < 7:
            assert not here.core.idle
            here.step()
        parent = here.row(request.request_id)
        rows = [parent, *here.core.fork(parent, 3)]
        while min(len(row.undelivered) for row in rows) < 10:
            assert not here.core.idle
            here.step()
        kept = rows[winner].undelivered[:10]
        assert len(here.tokens[request.request_id]) == 7
        here.core.adopt(rows[winner])
        assert parent.branch == 0
        assert all(row.blocks == [] for row in rows[1:])
        here.finish()
        tokens = here.tokens[request.request_id]
        assert tokens[7:17] == kept
        assert len(tokens) == 50
        assert here.ends[request.request_id] is FinishReason.LENGTH
        assert here.core.gauges().blocks_used == 0
        if crowded:
            assert request.request_id in here.preempted
            for other in others:
                alone = room()
                alone.add(other)
                same(here.tokens[other.request_id], alone.finish().tokens[other.request_id])
        return tokens

    crowded, roomy = told(True), told(False)
    # after the adoption draws are the request's own again, so only what the branch said must agree
    same(crowded[:17], roomy[:17])


def test_branches_that_end_wait_for_the_verdict(room: Callable[..., Room], make_request: Make) -> None:
    here = room()
    request = make_request((1, 2, 3), max_tokens=9, seed=2)
    here.add(request)
    here.step()
    parent = here.row(request.request_id)
    one, two = here.core.fork(parent, 2)
    for _ in range(20):
        here.step()
    assert (parent.ended, one.ended, two.ended) == (FinishReason.LENGTH,) * 3
    assert here.core.gauges().blocks_used == 0
    assert request.request_id not in here.ends
    with pytest.raises(ValueError, match="ended"):
        here.core.fork(one, 1)
    here.core.adopt(two)
    here.step()
    assert here.text(request.request_id) == two.tokens[3:]
    assert here.ends[request.request_id] is FinishReason.LENGTH
    assert here.core.idle
    with pytest.raises(ValueError, match="no request"):
        here.core.adopt(one)
    with pytest.raises(ValueError, match="no request"):
        here.core.fork(parent, 1)


def test_cancelling_a_request_frees_all_of_its_rows(room: Callable[..., Room], make_request: Make) -> None:
    here = room(max_num_seqs=4)
    request = make_request(tuple(range(20)), max_tokens=90)
    here.add(request)
    here.step()
    branches = here.core.fork(here.row(request.request_id), 5)
    here.step()
    assert here.core.gauges().running == 4
    assert here.core.gauges().waiting == 2
    here.core.cancel(request.request_id)
    here.step()
    assert here.ends == {request.request_id: FinishReason.CANCELLED}
    assert here.core.gauges() == here.core.gauges().__class__(0, 0, 0, here.core.gauges().blocks_total)
    assert here.core.idle
    assert all(b.blocks == [] for b in branches)


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[Sequence], bool]) -> None:
    forward = ModelRunner.forward

    def poisoned(self: ModelRunner, batch: Batch) -> ForwardOutput | None:
        measured = forward(self, batch)
        for i, row in enumerate(measured.sequences if measured else ()):
            if bad(row):
                measured.logits[i, 5] = float("nan")  # type: ignore[union-attr]
        return measured

    monkeypatch.setattr(ModelRunner, "forward", poisoned)


def test_bad_logits_hurt_no_sharer_and_leave_no_block_behind(
    room: Callable[..., Room], make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = room()
    prompt = tuple(range(24))
    good, bad, later = (make_request((*prompt, i), max_tokens=30, seed=i) for i in (1, 2, 3))
    here.add(good)
    here.step()
    here.add(bad)
    poison(monkeypatch, lambda row: row.request is bad and row.reply.length == 4)
    for _ in range(10):
        here.step()
    assert here.cached[good.request_id] == 0
    assert here.ends == {bad.request_id: FinishReason.ERROR}
    here.add(later)
    here.finish()
    assert here.cached[later.request_id] == 0, "blocks of a row that went bad are not found"
    monkeypatch.undo()
    for request in (good, later):
        alone = room()
        alone.add(request)
        same(here.tokens[request.request_id], alone.finish().tokens[request.request_id])
    assert here.core.gauges().blocks_used == 0


@pytest.mark.parametrize("whose", ["branch", "parent"])
def test_bad_logits_of_a_branch_end_the_branch_and_of_the_request_the_request(
    whose: str, room: Callable[..., Room], make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(tuple(range(20)), max_tokens=30, seed=8)
    alone = room()
    alone.add(request)
    alone.finish()
    here = room()
    here.add(request)
    here.step()
    here.core.fork(here.row(request.request_id), 2)
    poison(monkeypatch, lambda row: row.reply.length == 4 and bool(row.branch) == (whose == "branch"))
    here.finish()
    if whose == "branch":
        same(here.tokens[request.request_id], alone.tokens[request.request_id])
    else:
        assert here.ends == {request.request_id: FinishReason.ERROR}
    assert here.core.gauges().blocks_used == 0


def test_a_step_that_raises_hurts_nobody_outside_it(
    room: Callable[..., Room], make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = room(max_num_seqs=2)
    prompt = tuple(range(24))
    first, second, third = (make_request((*prompt, i), max_tokens=20, seed=i) for i in (1, 2, 3))
    for request in (first, second, third):
        here.add(request)
    for _ in range(3):
        here.step()
    here.core.fork(here.row(first.request_id), 1)
    forward = ModelRunner.forward

    def broken(self: ModelRunner, batch: Batch) -> ForwardOutput | None:
        forward(self, batch)
        raise RuntimeError("half of it was written")

    monkeypatch.setattr(ModelRunner, "forward", broken)
    with pytest.raises(RuntimeError, match="half"):
        here.core.step()
    report = here.core.fail_step()
    assert sorted(o.request_id for o in report.outputs) == [first.request_id, second.request_id]
    monkeypatch.undo()
    here.finish()
    assert here.hits >= 24
    alone = room()
    alone.add(third)
    same(here.tokens[third.request_id], alone.finish().tokens[third.request_id])
    assert here.core.gauges().blocks_used == 0


def test_a_failing_schedule_ends_the_requests_of_that_moment_and_no_others(
    room: Callable[..., Room], make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = room(max_num_seqs=1)
    first, second = (make_request(tuple(range(9)), max_tokens=20, seed=i) for i in (1, 2))
    here.add(first)
    here.step()
    here.core.cancel(first.request_id)
    here.core.report_between()
    here.add(second)

    def broken(self: Scheduler) -> Batch:
        raise RuntimeError("the ledger is wrong")

    monkeypatch.setattr(Scheduler, "schedule", broken)
    with pytest.raises(RuntimeError, match="ledger"):
        here.core.step()
    report = here.core.fail_step()
    assert [(o.request_id, o.finish_reason) for o in report.outputs] == [
        (second.request_id, FinishReason.ERROR)
    ]
    assert here.core.idle, "nothing is left to fail again"
    monkeypatch.undo()
    third = make_request(tuple(range(9)), max_tokens=5)
    here.add(third)
    assert here.finish().ends[third.request_id] is FinishReason.LENGTH
    assert here.core.gauges().blocks_used == 0


def test_the_cache_is_as_large_as_its_bytes_whatever_max_num_seqs(
    room: Callable[..., Room], make_request: Make
) -> None:
    """A prompt is found again although other contexts than ``max_num_seqs`` hold were computed since."""
    here = room(blocks=200, max_num_seqs=1)
    assert here.core.gauges().blocks_total == 200
    prompts = [tuple((i * 31 + k) % 256 for k in range(100)) for i in range(12)]
    for _ in range(2):
        for prompt in prompts:
            here.add(make_request(prompt, max_tokens=2))
            here.finish()
    assert here.hits == len(prompts) * 96
    assert room(blocks=200, max_num_seqs=1, enable_prefix_caching=False).core.gauges().blocks_total == 32
