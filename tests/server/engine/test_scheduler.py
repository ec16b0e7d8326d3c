"""The scheduler alone: no tensors, no model."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from entropick_server.engine.embedded.batch import Batch
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.embedded.turns import PATIENCE
from entropick_server.engine.types import Request

from .conftest import take

BLOCK = 4


def build(
    blocks: int = 64, seqs: int = 4, tokens: int = 16, caching: bool = True
) -> tuple[BlockPool, Scheduler]:
    pool = BlockPool(blocks)
    return pool, Scheduler(pool, BLOCK, seqs, tokens, caching)


@pytest.fixture
def sequence(make_request: Callable[..., Request]) -> Callable[..., Sequence]:
    def make(prompt: int, tokens: int = 4, **more: object) -> Sequence:
        request = make_request(tuple(range(prompt)), max_tokens=tokens, **more)
        return Sequence.of(request, 200)

    return make


def run(scheduler: Scheduler, batch: Batch) -> None:
    """What the engine does after a forward, with a model that always says 7."""
    scheduler.advance(batch)
    rows = [*batch.decode, *(c.sequence for c in batch.chunks if c.last)]
    for s in rows:
        reason = take(s, 7)
        scheduler.register([s])
        if reason is not None:
            scheduler.finish(s)


def test_decode_goes_first_and_prompts_share_what_is_left(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build(tokens=16, caching=False)
    first, second, third = sequence(10), sequence(20), sequence(3)
    scheduler.add(first)
    run(scheduler, scheduler.schedule())
    scheduler.add(second)
    scheduler.add(third)
    batch = scheduler.schedule()
    assert batch.decode == (first,)
    assert [(c.sequence, c.start, c.length, c.last) for c in batch.chunks] == [
        (third, 0, 3, True),
        (second, 0, 12, False),
    ]
    run(scheduler, batch)
    batch = scheduler.schedule()
    assert [(c.sequence, c.start, c.length, c.last) for c in batch.chunks] == [(second, 12, 8, True)]
    assert batch.tokens == 10
    run(scheduler, batch)
    assert scheduler.schedule().decode == (first, third, second)


def test_first_come_first_served_among_equals(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build(blocks=5)
    running, large, small = sequence(8, 8), sequence(12, 4), sequence(8, 1)
    for s in (running, large, small):
        scheduler.add(s)
    assert scheduler.schedule().sequences == [running]
    assert scheduler.gauges().waiting == 2


def test_a_short_prompt_passes_one_that_does_not_fit_but_not_for_ever(
    sequence: Callable[..., Sequence],
) -> None:
    _, scheduler = build(blocks=25, tokens=40, caching=False)
    running, large = sequence(40, 52), sequence(80, 4)
    scheduler.add(running)
    scheduler.add(large)
    passed = 0
    while large.slot < 0:
        small = sequence(1, 1)
        scheduler.add(small)
        batch = scheduler.schedule()
        passed += small in batch.sequences
        run(scheduler, batch)
        scheduler.finish(small)
    assert passed == PATIENCE


def test_blocks_come_with_the_prompt_and_then_one_by_one(sequence: Callable[..., Sequence]) -> None:
    pool, scheduler = build(blocks=6)
    s = sequence(7, 8)
    scheduler.add(s)
    held = []
    while not scheduler.idle:
        batch = scheduler.schedule()
        held.append(len(s.blocks))
        assert pool.used == held[-1]
        run(scheduler, batch)
    assert held == [2, 2, 3, 3, 3, 3, 4, 4]


def test_admission_leaves_a_block_for_everyone_who_runs(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build(blocks=4)
    first, second, third = sequence(4, 8), sequence(4, 8), sequence(4, 8)
    for s in (first, second, third):
        scheduler.add(s)
    assert scheduler.schedule().sequences == [first, second]


def test_the_last_admitted_gives_its_blocks_up_and_waits_in_front(sequence: Callable[..., Sequence]) -> None:
    pool, scheduler = build(blocks=6, seqs=3)
    first, second, third, last = (sequence(3, 13) for _ in range(4))
    for s in (first, second, third, last):
        scheduler.add(s)
    orders: list[list[Sequence]] = []
    while not scheduler.idle:
        batch = scheduler.schedule()
        orders.append(list(batch.preempted))
        assert all(s.slot == -1 and s.blocks == [] and s.computed == 0 for s in batch.preempted)
        assert not (batch.preempted and batch.looked_up)
        run(scheduler, batch)
    assert [s for order in orders for s in order][:2] == [third, second]
    assert pool.used == 0
    for s in (first, second, third, last):
        assert s.tokens[3:] == [7] * 13


def test_a_prompt_takes_the_known_blocks_of_its_beginning(sequence: Callable[..., Sequence]) -> None:
    pool, scheduler = build()
    first = sequence(10, 4)
    scheduler.add(first)
    while not scheduler.idle:
        run(scheduler, scheduler.schedule())
    assert pool.cached == 3  # 8 tokens of the prompt, 2 with 2 of the reply; the last token was never fed
    again, longer, other = sequence(10), sequence(13), sequence(8)
    turn = sequence(3)
    turn.tokens[:] = [*first.tokens, 1, 2]
    other.tokens[0] = 99
    for s in (again, longer, other, turn):
        scheduler.add(s)
    batch = scheduler.schedule()
    found = {c.sequence: c.start for c in batch.chunks}
    assert found[again] == 8
    assert found[longer] == 8
    assert found[other] == 0
    assert again.blocks[:2] == longer.blocks[:2]
    assert found[turn] == 12
    assert pool.references(again.blocks[0]) == 3
    assert batch.looked_up == tuple(found)


def test_the_last_token_of_a_prompt_always_runs(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build()
    for cached in (0, 4):
        s = sequence(8, 1)
        scheduler.add(s)
        batch = scheduler.schedule()
        assert (s.cached, batch.chunks[0].start, batch.rows) == (cached, cached, (s,))
        run(scheduler, batch)


def test_without_prefix_caching_nothing_is_found(sequence: Callable[..., Sequence]) -> None:
    pool, scheduler = build(caching=False)
    for _ in range(2):
        scheduler.add(sequence(10))
        batch = scheduler.schedule()
        assert batch.chunks[0].start == 0
        assert batch.looked_up == ()
        run(scheduler, batch)
        scheduler.finish(batch.sequences[0])
        assert pool.cached == 0


def test_a_sequence_larger_than_the_cache_is_refused(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build(blocks=3)
    with pytest.raises(ValueError, match="blocks"):
        scheduler.add(sequence(10, 4))


def test_request_ids_are_unique(sequence: Callable[..., Sequence]) -> None:
    _, scheduler = build()
    scheduler.add(sequence(2, request_id="a"))
    with pytest.raises(ValueError, match="in use"):
        scheduler.add(sequence(2, request_id="a"))


def test_a_budget_that_starves_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="must exceed"):
        build(seqs=8, tokens=8)


@pytest.mark.parametrize("seed", range(30))
def test_random_arrivals_and_cancels_lose_no_block_and_no_request(
    seed: int, sequence: Callable[..., Sequence]
) -> None:
    rng = random.Random(seed)
    seqs, tokens = rng.randint(1, 5), rng.randint(6, 24)
    pool, scheduler = build(blocks=rng.randint(12, 40), seqs=seqs, tokens=tokens)
    live: list[Sequence] = []
    cancelled: set[Sequence] = set()
    for _ in range(150):
        if rng.random() < 0.4:
            s = sequence(rng.randint(1, 30), rng.randint(1, 12))
            scheduler.add(s)
            live.append(s)
        if live and rng.random() < 0.15:
            victim = rng.choice(live)
            cancelled.add(victim)
            scheduler.finish(victim)
            scheduler.finish(victim)  # harmless
        batch = scheduler.schedule()
        check(batch, pool, seqs, tokens)
        run(scheduler, batch)
    while not scheduler.idle:
        batch = scheduler.schedule()
        assert batch.tokens, "a step without work while requests wait"
        check(batch, pool, seqs, tokens)
        run(scheduler, batch)
    assert pool.used == 0
    assert scheduler.gauges().running == 0
    for s in live:
        assert s in cancelled or s.reply.length == s.request.sampling.max_tokens


def check(batch: Batch, pool: BlockPool, seqs: int, tokens: int) -> None:
    everyone = batch.sequences
    assert batch.tokens <= tokens
    assert len(everyone) == len(set(everyone)) <= seqs
    slots = [s.slot for s in everyone]
    assert len(set(slots)) == len(slots)
    assert all(0 <= slot < seqs for slot in slots)
    held = {block for s in everyone for block in s.blocks}
    assert len(held) <= pool.used
    fed = {c.sequence: c.start + c.length for c in batch.chunks}
    for s in everyone:
        assert len(s.blocks) * BLOCK >= fed.get(s, len(s.tokens))
