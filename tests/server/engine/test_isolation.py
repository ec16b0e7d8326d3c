"""A step that raises: the request for which it does ends alone, and the others never notice, to the bit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded import open_rollouts
from entropick_server.engine.embedded.batch import Batch, Chunk
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.isolation import isolate, part
from entropick_server.engine.embedded.model_runner import ModelRunner
from entropick_server.engine.embedded.sampling import StepSampler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.embedded.watch import Watch
from entropick_server.engine.reply import Drawn, Reply
from entropick_server.engine.types import FinishReason, Request

from .conftest import Room, several
from .test_branching import policy as branching
from .test_embedded_engine import Open, open_engine, run, until  # noqa: F401 - a fixture
from .test_shared_blocks import KINDS

Make = Callable[..., Request]
Patch = pytest.MonkeyPatch
GUILTY = 299
"""a token that a guilty request names as a stop"""
WATCHED = tuple(replace(policy, genuineness=True) for policy in KINDS)


def guilty(sequence: Sequence) -> bool:
    return GUILTY in sequence.reply.stops


def spoil_forward(patch: Patch, when: Callable[[Batch], bool]) -> None:
    forward = ModelRunner.forward

    def spoiled(self: ModelRunner, batch: Batch) -> ForwardOutput | None:
        output = forward(self, batch)
        if when(batch):
            raise RuntimeError("keys and values were written")
        return output

    patch.setattr(ModelRunner, "forward", spoiled)


def in_the_prompt(patch: Patch) -> None:
    spoil_forward(patch, lambda batch: any(guilty(c.sequence) for c in batch.chunks))


def in_the_forward(patch: Patch) -> None:
    spoil_forward(patch, lambda batch: any(guilty(s) and s.reply.length == 3 for s in batch.decode))


def in_the_masks(patch: Patch) -> None:
    prepare = StepSampler.prepare

    def spoiled(self: StepSampler, batch: Batch) -> None:
        if any(guilty(s) and s.reply.length == 2 for s in batch.rows):
            raise ValueError("no mask")
        prepare(self, batch)

    patch.setattr(StepSampler, "prepare", spoiled)


def behind_the_windows(patch: Patch) -> None:
    """The rows' windows have the step already when it fails, and must not get it twice."""
    push = Watch.push

    def spoiled(self: Watch, output: ForwardOutput, logits: Any) -> Any:
        steps = push(self, output, logits)
        if any(guilty(s) and s.reply.length == 4 for s in output.sequences):
            raise ZeroDivisionError("behind the push")
        return steps

    patch.setattr(Watch, "push", spoiled)


def in_the_commit(patch: Patch) -> None:
    take = Reply.take

    def spoiled(self: Reply, *given: Any) -> FinishReason | None:
        if GUILTY in self.stops and self.length == 5:
            raise KeyError("half taken")
        return take(self, *given)

    patch.setattr(Reply, "take", spoiled)


STAGES = (in_the_prompt, in_the_forward, in_the_masks, behind_the_windows, in_the_commit)


@pytest.mark.parametrize("spoil", STAGES)
@pytest.mark.parametrize(("blocks", "slots"), [(18, 5), (400, 16)])
def test_who_makes_a_step_raise_ends_alone(
    spoil: Callable[[Patch], None],
    blocks: int,
    slots: int,
    room: Callable[..., Room],
    make_request: Make,
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = random.Random(blocks)
    requests = several(make_request, 12, rng, 40, (20, 40), WATCHED, (None, 2))
    bad = {i: replace(r.sampling, stop_token_ids=(GUILTY,)) for i, r in enumerate(requests) if i % 4 == 1}
    requests = [replace(r, sampling=bad[i]) if i in bad else r for i, r in enumerate(requests)]
    with monkeypatch.context() as patch:
        spoil(patch)
        here = room(blocks, max_num_seqs=slots, max_num_batched_tokens=60)
        for request in requests:
            here.add(request)
            here.step()
        here.finish()
    for i, request in enumerate(requests):
        if i in bad:
            assert here.ends[request.request_id] is FinishReason.ERROR
            assert f"request {request.request_id}" in caplog.text
            continue
        assert here.ends[request.request_id] is not FinishReason.ERROR
        alone = room()
        alone.add(request)
        # the same bits: texts, log probabilities, signals, windows
        assert here.tokens[request.request_id] == alone.finish().tokens[request.request_id]
    assert here.core.gauges().blocks_used == 0
    later = make_request(max_tokens=5)
    here.add(later)
    assert here.finish().ends[later.request_id] is FinishReason.LENGTH


def test_where_the_parts_of_a_step_work_nobody_ends(
    room: Callable[..., Room], make_request: Make, monkeypatch: Patch
) -> None:
    """As where the memory lasts for half of it."""
    requests = several(make_request, 9, random.Random(3), 40, (10, 20), WATCHED)
    with monkeypatch.context() as patch:
        spoil_forward(patch, lambda batch: len(batch.sequences) > 2)
        here = room()
        for request in requests:
            here.add(request)
        here.finish()
    for request in requests:
        alone = room()
        alone.add(request)
        assert here.tokens[request.request_id] == alone.finish().tokens[request.request_id]


def test_choices_that_fork_from_a_prompt_in_a_step_that_raises(
    room: Callable[..., Room], make_request: Make, monkeypatch: Patch
) -> None:
    """Part blocks are copied for the part of the step that needs them, and not again behind its forward."""
    first = make_request(tuple(range(21)), max_tokens=12, seed=4)
    choices = [replace(first, request_id=f"c{i}", choice=i, group="g") for i in range(4)]
    other = make_request((9, 8, 7), max_tokens=30, stop_token_ids=(GUILTY,))
    with monkeypatch.context() as patch:
        here = room()
        here.add(other)
        for choice in choices:
            here.add(choice)
        copied = []
        copy = ModelRunner.copy
        patch.setattr(ModelRunner, "copy", lambda self, copies: copied.extend(copies) or copy(self, copies))
        spoil_forward(patch, lambda batch: bool(batch.copies) and any(map(guilty, batch.sequences)))
        here.finish()
    assert copied
    assert here.ends[other.request_id] is FinishReason.LENGTH, "alone it needs no copy, and does not fail"
    for choice in choices:
        alone = room()
        alone.add(replace(choice, group=None))
        assert here.tokens[choice.request_id] == alone.finish().tokens[choice.request_id]


@pytest.mark.parametrize("whose", ["branch", "parent"])
def test_a_branch_that_makes_a_step_raise_is_lost_alone(
    whose: str, room: Callable[..., Room], make_request: Make, monkeypatch: Patch
) -> None:
    request = make_request(tuple(range(20)), max_tokens=30, seed=8)
    alone = room()
    alone.add(request)
    alone.finish()
    here = room()
    here.add(request)
    here.step()
    here.core.fork(here.row(request.request_id), 2)
    spoil_forward(
        monkeypatch,
        lambda batch: any(
            s.reply.length == 4 and bool(s.branch) == (whose == "branch") for s in batch.decode
        ),
    )
    here.finish()
    if whose == "branch":
        assert here.tokens[request.request_id] == alone.tokens[request.request_id]
    else:
        assert here.ends == {request.request_id: FinishReason.ERROR}
    assert here.core.gauges().blocks_used == 0


def test_a_verdict_that_raises_ends_its_request_alone(
    room: Callable[..., Room], make_request: Make, monkeypatch: Patch
) -> None:
    bad = make_request(policy=branching(), max_tokens=40, seed=1)
    good = make_request(max_tokens=20, seed=2)
    close = open_rollouts._close
    closed = []

    def spoiled(sequences: tuple[Sequence, ...]) -> Any:
        closed.append(sequences)
        close(sequences)
        raise ArithmeticError("no score")

    monkeypatch.setattr(open_rollouts, "_close", spoiled)
    here = room()
    for request in (bad, good):
        here.add(request)
    here.finish()
    assert closed, "a rollout opened"
    assert here.ends == {bad.request_id: FinishReason.ERROR, good.request_id: FinishReason.LENGTH}
    assert here.core.gauges().blocks_used == 0


async def test_where_every_step_raises_all_end_and_the_next_request_is_served(
    open_engine: Open,  # noqa: F811
    make_request: Make,
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = 0

    def count(batch: Batch) -> bool:
        nonlocal runs
        runs += 1
        return True

    async with open_engine(max_num_seqs=64) as engine:
        with monkeypatch.context() as patch:
            spoil_forward(patch, count)
            asked = [make_request(max_tokens=9) for _ in range(40)]
            ends = [last for _, last in await asyncio.gather(*(run(engine, r) for r in asked))]
        assert {last.finish_reason for last in ends} == {FinishReason.ERROR}
        assert all("log says why" in (last.error or "") for last in ends)
        assert caplog.text.count("a step failed\n") <= 40
        assert runs < 40 * 6, "it is not run again for every row of every step"
        await until(lambda: engine.gauges().blocks_used == 0)
        assert engine.ready
        tokens, last = await run(engine, make_request(max_tokens=9))
        assert (len(tokens), last.finish_reason) == (9, FinishReason.LENGTH)


def test_a_device_that_is_lost_in_a_part_of_a_step_is_lost(
    room: Callable[..., Room], make_request: Make, monkeypatch: Patch
) -> None:
    forward = ModelRunner.forward

    def lost(self: ModelRunner, batch: Batch) -> ForwardOutput | None:
        if len(batch.sequences) > 1:
            raise RuntimeError("first")
        forward(self, batch)
        raise torch.AcceleratorError("the device is gone")

    here = room()
    for _ in range(3):
        here.add(make_request())
    monkeypatch.setattr(ModelRunner, "forward", lost)
    with pytest.raises(torch.AcceleratorError):
        here.step()


def sequences_of(make: Make, count: int) -> list[Sequence]:
    return [Sequence.of(make(), 100) for _ in range(count)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(size=st.integers(2, 40), cut=st.integers(0, 40), places=st.sets(st.integers(0, 39), max_size=7))
def test_the_guilty_are_found_and_no_others(size: int, cut: int, places: set[int]) -> None:
    made = sequences_of(_plain_request, size)
    bad = {made[at % size] for at in places}
    if len(bad) == size:
        bad.remove(made[-1])
    cut = min(cut, size)
    chunks = tuple(Chunk(s, 0, 3, last=i % 2 == 0) for i, s in enumerate(made[cut:]))
    rows = (*made[:cut], *(c.sequence for c in chunks if c.last))
    runs = 0

    def run_part(some: Batch) -> list[Drawn]:
        nonlocal runs
        runs += 1
        if bad & set(some.sequences):
            raise LookupError("one of them")
        assert some.rows == tuple(s for s in rows if s in set(some.rows))
        return list(some.rows)  # type: ignore[misc]

    found = isolate(Batch(tuple(made[:cut]), chunks, rows), run_part, LookupError("whole"))
    assert set(found.failed) == bad
    assert {row: row for row in rows if row not in bad} == found.drawn
    assert runs <= 2 * size
    left = part(Batch(tuple(made[:cut]), chunks, rows), (s for s in made if s not in bad))
    assert left.sequences == [s for s in made if s not in bad]


def test_what_fails_whatever_runs_is_given_up_soon() -> None:
    made = sequences_of(_plain_request, 256)
    whole = LookupError("whole")
    runs = 0

    def run_part(some: Batch) -> list[Drawn]:
        nonlocal runs
        runs += 1
        raise ValueError("any")

    with pytest.raises(LookupError) as raised:
        isolate(Batch(tuple(made), (), tuple(made)), run_part, whole)
    assert raised.value is whole
    assert runs < 32


def _plain_request() -> Request:
    return Request("r", (1, 2, 3), SamplingParams(max_tokens=9), PolicyConfig(policy="fixed"), 0.0)
