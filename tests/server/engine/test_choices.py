"""Choices of one prompt: computed once, each with the text it has alone, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from entropick_kernels.sample import philox_uniform
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.params import PolicyConfig
from entropick_sampler.strategy import Strategy
from entropick_server.engine.types import FinishReason, Request, StepReport

from .conftest import BLOCK, Room, same
from .test_shared_blocks import CLARIFY as OFTEN
from .test_shared_blocks import FIXED, SEED

Make = Callable[..., Request]
Open = Callable[..., Room]
CLARIFY = replace(OFTEN, overrides={**OFTEN.overrides, "clarify_budget": 1})
BRANCHES = PolicyConfig(
    preset="seed",
    overrides={"clarify_budget": 0.0},
    branch=BranchConfig(width=3, depth=4, budget=4.0, on=frozenset({Strategy.ADAPTIVE, Strategy.EXPLORE})),
)


class Counting:
    """A room that counts what is fed."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.fed = 0
        self.copied = 0

    def step(self) -> StepReport:
        report = self.room.step()
        batch = self.room.core._batch
        self.fed += sum(chunk.length for chunk in batch.chunks)
        self.copied += sum(len(copy.targets) for copy in batch.copies)
        return report

    def finish(self) -> None:
        while not self.room.core.idle:
            self.step()
        assert self.room.core.gauges().blocks_used == 0


def choices(request: Request, n: int) -> list[Request]:
    group = request.request_id
    return [replace(request, request_id=f"{group}-{i}", choice=i, group=group) for i in range(n)]


def alone(room: Room, request: Request) -> str:
    """The same choice without the others."""
    name = f"alone-{len(room.tokens)}"
    room.add(replace(request, request_id=name, group=None))
    room.finish()
    return name


def check(got: Room, requests: list[Request], other: Room) -> None:
    """Every choice has the tokens, the decisions and the end that it has alone."""
    for request in requests:
        name = alone(other, request)
        same(got.tokens[request.request_id], other.tokens[name])
        assert got.ends[request.request_id] is other.ends[name]


@pytest.mark.parametrize("policy", [FIXED, SEED, CLARIFY, BRANCHES])
@pytest.mark.parametrize("caching", [True, False])
def test_every_choice_is_the_one_it_is_alone(
    policy: PolicyConfig, caching: bool, room: Open, make_request: Make
) -> None:
    here, other = room(enable_prefix_caching=caching), room()
    tokens = 70 if policy is CLARIFY else 17
    for length in (1, BLOCK, BLOCK + 5, 2 * BLOCK, 2 * BLOCK + 1, 41):
        request = make_request(
            tuple(range(length, 2 * length)), policy=policy, seed=length, max_tokens=tokens
        )
        four = choices(request, 4)
        for one in four:
            here.add(one)
        here.finish()
        check(here, four, other)
        assert len({tuple(here.text(one.request_id)) for one in four}) > 1
        forced = [any(t.forced for t in here.tokens[one.request_id]) for one in four]
        assert all(forced) == any(forced) == (policy is CLARIFY)
        # the first is the request without choices
        same(here.tokens[four[0].request_id], other.tokens[alone(other, replace(request, choice=0))])
    assert here.core.gauges().blocks_used == 0


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK, 100])
def test_the_prompt_is_computed_once(length: int, caching: bool, room: Open, make_request: Make) -> None:
    here = Counting(room(enable_prefix_caching=caching, max_num_batched_tokens=40))
    for one in choices(make_request(tuple(range(length))), 5):
        here.room.add(one)
    most = 0
    while not here.room.core.idle:
        here.step()
        most = max(most, here.room.core.gauges().blocks_used)
    # the prompt, then its last token for each of the others
    assert here.fed == length + 4
    full, rest = divmod(length - 1, BLOCK)
    assert here.copied == (4 if rest else 0)
    # 8 tokens are said: what is not shared is at most two blocks of each
    assert most <= full + 5 * 2
    assert here.room.core.gauges().blocks_used == 0
    # nothing of the others counts as looked up
    assert here.room.queries == (length if caching else 0)
    assert here.room.hits == 0


def test_more_choices_than_slots(room: Open, make_request: Make) -> None:
    here = Counting(room(max_num_seqs=2, max_num_batched_tokens=20))
    seven = choices(make_request(tuple(range(50)), max_tokens=9), 7)
    for one in seven:
        here.room.add(one)
    assert here.room.core.gauges().waiting == 7
    here.finish()
    # pairs end together, so the third has nobody to fork from and finds the full blocks in the cache
    assert here.fed < 50 + 6 * (1 + BLOCK)
    check(here.room, seven, room())


def test_a_choice_that_comes_late_forks_from_one_that_speaks(room: Open, make_request: Make) -> None:
    here = Counting(room(enable_prefix_caching=False))
    three = choices(make_request(tuple(range(20)), max_tokens=30), 3)
    for one in three:
        here.room.add(one)
        for _ in range(7):
            here.step()
    here.finish()
    assert here.fed == 20 + 2
    check(here.room, three, room())


def test_a_choice_outlives_the_one_that_computed_the_prompt(room: Open, make_request: Make) -> None:
    for steps in (0, 1, 2, 5):
        here = Counting(room(max_num_batched_tokens=20, enable_prefix_caching=False))
        three = choices(make_request(tuple(range(30)), max_tokens=12), 3)
        for one in three:
            here.room.add(one)
        for _ in range(steps):
            here.step()
        here.room.core.cancel(three[0].request_id)
        here.finish()
        assert here.room.ends[three[0].request_id] is FinishReason.CANCELLED
        check(here.room, three[1:], room())


def test_a_choice_that_ends_early_leaves_the_others(room: Open, make_request: Make) -> None:
    here, lengths = Counting(room()), set()
    stops = tuple(range(0, 300, 9))
    for seed in range(4):
        request = make_request(tuple(range(11)), max_tokens=40, stop_token_ids=stops, seed=seed)
        five = choices(request, 5)
        for one in five:
            here.room.add(one)
        here.finish()
        check(here.room, five, room())
        lengths |= {len(here.room.text(one.request_id)) for one in five}
    assert len(lengths) > 3


@pytest.mark.parametrize("policy", [SEED, CLARIFY, BRANCHES])
@pytest.mark.parametrize("caching", [True, False])
def test_under_pressure_every_choice_is_right(
    policy: PolicyConfig, caching: bool, room: Open, make_request: Make
) -> None:
    here = Counting(room(18, max_num_seqs=6, max_num_batched_tokens=30, enable_prefix_caching=caching))
    groups = [
        choices(make_request(tuple(range(start, start + 21)), policy=policy, max_tokens=64), 4)
        for start in (0, 50, 100)
    ]
    for group in groups:
        for one in group:
            here.room.add(one)
        here.step()
    here.finish()
    assert len(here.room.preempted) > 3
    check(here.room, [one for group in groups for one in group], room())


def test_bad_logits_end_one_choice(room: Open, make_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = room(), room()
    three = choices(make_request(tuple(range(20)), max_tokens=12), 3)
    runner = here.core._runner
    forward = runner.forward

    def faulty(batch: Any) -> Any:
        measured = forward(batch)
        for i, row in enumerate(batch.rows if measured is not None else ()):
            if row.request is three[0] and row.reply.length == 4:
                measured.logits[i] = torch.nan
        return measured

    monkeypatch.setattr(runner, "forward", faulty)
    for one in three:
        here.add(one)
    here.finish()
    assert here.ends[three[0].request_id] is FinishReason.ERROR
    check(here, three[1:], other)
    assert here.core.gauges().blocks_used == 0


def test_a_group_has_one_prompt(room: Open, make_request: Make) -> None:
    here = room()
    first = make_request((1, 2, 3))
    here.add(replace(first, group="g"))
    here.add(replace(first, request_id="other", prompt_token_ids=(1, 2, 4), choice=1, group="g"))
    here.add(replace(first, request_id="far", choice=1 << 16))
    report = here.step()
    errors = {o.request_id: o.error for o in report.outputs if o.error}
    assert errors == {
        "other": "the choices of a group must have the same prompt",
        "far": "choice must be 0 to 65535",
    }
    here.finish()
    here.add(replace(first, request_id="again", prompt_token_ids=(9,), group="g"))
    assert here.finish().ends["again"] is FinishReason.LENGTH


def test_the_draw_of_a_choice(room: Open, make_request: Make) -> None:
    """At a high temperature the token is what the choice's uniform number says: its word is choice << 16."""
    here = room()
    request = make_request(tuple(range(9)), seed=77, temperature=2.0, max_tokens=1, logprobs=20, top_p=1.0)
    three = choices(request, 3)
    logits: list[torch.Tensor] = []
    forward = here.core._runner.forward

    def watched(batch: Any) -> Any:
        measured = forward(batch)
        if measured is not None:
            logits.extend(measured.logits.clone())
        return measured

    here.core._runner.forward = watched  # type: ignore[method-assign]
    for one in three:
        here.add(one)
    here.finish()
    for choice, (one, row) in enumerate(zip(three, logits, strict=True)):
        words = (torch.tensor([n]) for n in (77, 0, 0, choice << 16))
        u = float(philox_uniform(*words))
        mass = (row.double() / 2.0).softmax(0).cumsum(0)
        token = here.text(one.request_id)[0]
        below = float(mass[token - 1]) if token else 0.0
        assert below - 1e-6 <= u <= float(mass[token]) + 1e-6
