"""Random schedules with a model that is a hash: blocks, copies and tokens are checked after every step."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded import displacement
from entropick_server.engine.embedded.batch import Batch, TailCopy
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.types import FinishReason, Request

from .conftest import take

BLOCK = 4
LIMIT = 48
STOP = 5
SEEN: Counter[str] = Counter()


def key(tokens: list[int]) -> int:
    """What the model keeps of the last of these tokens; depends on all of them."""
    return hash(tuple(tokens))


def next_token(tokens: list[int], word: int) -> int:
    return hash((*tokens, word, -7)) % 61


class Driver:
    """An engine around the scheduler, whose cache holds a number for each token."""

    def __init__(self, blocks: int, seqs: int, budget: int, caching: bool) -> None:
        self.pool = BlockPool(blocks)
        self.seqs = seqs
        self.scheduler = Scheduler(self.pool, BLOCK, seqs, seqs + budget, caching)
        self.cells = [[0] * BLOCK for _ in range(blocks + 1)]
        self.requests: dict[str, Sequence] = {}
        self.live: set[str] = set()
        self.plain: set[str] = set()
        """requests that were never forked nor cut short"""

    def add(self, beginning: int, prompt: int, tokens: int, choices: int = 1) -> None:
        name = str(len(self.requests))
        ids = tuple((i * 7 + (beginning if i % 9 == 8 else 0)) % 23 for i in range(prompt))
        sampling = SamplingParams(max_tokens=tokens, stop_token_ids=(STOP,))
        for choice in range(choices):
            own, group = f"{name}-{choice}", name if choices > 1 else None
            request = Request(
                own,
                ids,
                sampling,
                PolicyConfig(),
                time.monotonic(),
                choice,
                group,
                answer_id=f"answer {beginning} of {prompt}",
                share=str(tokens % 3),
            )
            sequence = Sequence.of(request, LIMIT)
            try:
                self.scheduler.add(sequence)
            except ValueError:
                SEEN["refused"] += 1
                assert not choice, "a group was taken in part"
                return
            self.requests[own] = sequence
            self.live.add(own)
            self.plain.add(own)

    def rows(self) -> list[Sequence]:
        roots = [self.requests[name] for name in sorted(self.live)]
        return [row for root in roots for row in (root, *root.branches)]

    def fork(self, row: Sequence, count: int) -> None:
        if row.ended is not None:
            with pytest.raises(ValueError, match="ended"):
                self.scheduler.fork(row, count)
            return
        branches, tail = self.scheduler.fork(row, count)
        if tail is not None:
            SEEN["tail copies"] += 1
            self.copy(tail)
        assert len({b.branch for b in row.branches} | {0}) == 1 + len(row.branches)
        assert all(b.tokens == row.tokens for b in branches)
        SEEN["branches that run"] += sum(b.slot >= 0 for b in branches)
        SEEN["branches that wait"] += sum(b.slot < 0 for b in branches)
        self.plain.discard(row.request.request_id)

    def copy(self, tail: TailCopy) -> None:
        for target in tail.targets:
            assert self.pool.references(target) == 1, "a shared block is overwritten"
            self.cells[target] = self.cells[tail.source].copy()

    def adopt(self, row: Sequence) -> None:
        tokens, ended = row.tokens.copy(), row.ended
        root = self.scheduler.adopt(row)
        assert (root.tokens, root.ended, root.branch) == (tokens, ended, 0)
        assert root.branches == []
        SEEN["adopted a branch"] += row is not root
        if ended is not None:
            self.end(root)

    def end(self, root: Sequence) -> None:
        self.scheduler.finish(root)
        self.live.discard(root.request.request_id)

    def cancel(self, row: Sequence) -> None:
        self.end(self.requests[row.request.request_id])
        self.plain.discard(row.request.request_id)
        SEEN["cancelled"] += 1

    def poison(self, row: Sequence) -> None:
        """A row's numbers are bad: its own blocks are overwritten, its request ends."""
        for block in self.scheduler.poisoned(row):
            self.cells[block] = [-1] * BLOCK
        self.cancel(row)

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        SEEN["preempted"] += len(batch.preempted)
        SEEN["displaced"] += bool(batch.preempted and batch.looked_up)
        SEEN["hits"] += sum(s.cached for s in batch.looked_up)
        for s in batch.preempted:
            assert (s.slot, s.blocks, s.computed) == (-1, [], 0)
        for copy in batch.copies:
            SEEN["choices that copy"] += len(copy.targets)
            self.copy(copy)
        for chunk in batch.chunks:
            s = chunk.sequence
            assert chunk.length > 0
            if s.request.choice and chunk.start == s.prompt_length - 1 and chunk.last:
                SEEN["choices that fork"] += 1
            elif s.request.choice and not s.reply.length and not chunk.start:
                SEEN["choices that compute"] += 1
            elif s.request.choice and s.reply.length and chunk.start == s.prompt_length:
                SEEN["choices that fork again"] += 1
            for at in range(chunk.start, chunk.start + chunk.length):
                self.write(chunk.sequence, at)
        for s in batch.decode:
            assert s.computed == len(s.tokens) - 1
            self.write(s, s.computed)
        rows = batch.rows
        assert len(set(batch.sequences)) == len(batch.sequences)
        self.scheduler.advance(batch)
        for row in rows:
            # what a row attends to is what its tokens give, wherever the blocks came from
            for at in range(len(row.tokens)):
                cell = self.cells[row.blocks[at // BLOCK]][at % BLOCK]
                assert cell == key(row.tokens[: at + 1])
            reason = take(row, next_token(row.tokens, row.philox_stream))
            self.scheduler.register([row])
            if reason is None:
                continue
            if row.branches:
                row.ended = reason
                self.scheduler.suspend(row)
            else:
                self.end(row)
        return batch

    def write(self, s: Sequence, at: int) -> None:
        block = s.blocks[at // BLOCK]
        assert self.pool.references(block) == 1, "a shared block is written"
        self.cells[block][at % BLOCK] = key(s.tokens[: at + 1])

    def check(self) -> None:
        rows, pool = self.rows(), self.pool
        held = Counter(block for row in rows for block in row.blocks)
        for block in range(1, pool.total + 1):
            assert pool.references(block) == held[block]
        assert 0 not in held
        assert pool.used == len(held)
        assert pool.free + pool.cached + pool.used == pool.total
        for row in rows:
            assert len(set(row.blocks)) == len(row.blocks)
            assert row.computed <= len(row.blocks) * BLOCK
            assert len(row.blocks) <= -(-len(row.tokens) // BLOCK)
            assert all(held[block] == 1 for block in row.blocks[row.computed // BLOCK :]), (
                "a part block is shared"
            )
            assert bool(row.blocks) == (row.slot >= 0)
        slots = [row.slot for row in rows if row.slot >= 0]
        assert len(set(slots)) == len(slots) <= self.seqs
        load = self.scheduler.gauges()
        assert load.running == len(slots)
        assert load.waiting == sum(row.slot < 0 and row.ended is None for row in rows)
        SEEN["shared"] += any(count > 1 for count in held.values())


OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 20), st.integers(1, 30)),
    st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 6), st.integers(16, 30)),
    st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 20), st.integers(1, 30), st.integers(2, 5)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("step"), st.integers(6, 12)),
    st.tuples(st.sampled_from(["cancel", "poison", "drop", "adopt"]), st.integers(0, 20)),
    st.tuples(st.just("fork"), st.integers(0, 20), st.integers(1, 4)),
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    blocks=st.integers(5, 20),
    seqs=st.integers(1, 7),
    budget=st.integers(1, 20),
    caching=st.sampled_from([True, True, False]),
    operations=st.lists(OPERATIONS, min_size=12, max_size=50),
)
def random_schedule(
    blocks: int, seqs: int, budget: int, caching: bool, operations: list[tuple[str, int, int, int]]
) -> None:
    driver = Driver(blocks, seqs, budget, caching)
    for name, *numbers in operations:
        rows = driver.rows()
        if name == "add":
            driver.add(*numbers)
        elif name == "step":
            for _ in range(numbers[0]):
                driver.step()
                driver.check()
        elif rows:
            row = rows[numbers[0] % len(rows)]
            if name == "fork":
                driver.fork(row, numbers[1])
            elif name == "drop":
                if row.branch:
                    driver.scheduler.finish(row)
            else:
                getattr(driver, name)(row)
        driver.check()
    for root in [driver.requests[name] for name in driver.live]:
        if root.branches or root.ended is not None:
            driver.adopt(root)
    driver.check()
    while not driver.scheduler.idle:
        assert driver.step().tokens, "a step without work while requests wait"
        driver.check()
    assert driver.pool.used == 0
    assert not driver.live
    SEEN["evicted"] += driver.pool.evictions
    for name in driver.plain:
        SEEN["whole"] += 1
        assert driver.requests[name].tokens == alone(driver.requests[name])


def alone(sequence: Sequence) -> list[int]:
    """The tokens that a request must have, whatever ran beside it."""
    again = Sequence.of(sequence.request, LIMIT)
    reason: FinishReason | None = None
    while reason is None:
        reason = take(again, next_token(again.tokens, again.philox_stream))
    return again.tokens


def test_random_schedules_lose_no_block_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displacement, "TURN", 3)  # replies are short here
    SEEN.clear()
    random_schedule()
    for what in ("preempted", "displaced", "hits", "evicted", "cancelled", "refused", "shared", "whole"):
        assert SEEN[what] > 20, SEEN
    for what in ("choices that copy", "choices that fork", "choices that fork again", "choices that compute"):
        assert SEEN[what] > 20, SEEN
    for what in ("tail copies", "branches that run", "branches that wait", "adopted a branch"):
        assert SEEN[what] > 20, SEEN
