"""Whose turn it is: the wait of a short request behind large ones, shares, order, and that nothing starves.

All figures are steps of the scheduler, so they are the same on every machine.
"""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.batch import Batch
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.displacement import TURN
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.embedded.turns import PATIENCE
from entropick_server.engine.types import Request

from .conftest import take

BLOCK = 16


class Line:
    """A scheduler with a model that says the same to everybody, and the step of each event."""

    def __init__(self, slots: int = 16, blocks: int = 2000, budget: int = 512) -> None:
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(self.pool, BLOCK, slots, budget)
        self.steps = 0
        self.first: dict[str, int] = {}
        """request id -> step of its first token"""
        self.end: dict[str, int] = {}
        self.admitted: list[str] = []
        """request ids in the order of their first steps"""
        self.drawn: dict[str, int] = {}
        """share -> tokens"""
        self.displaced = 0
        self.fed = 0
        self._names = count()
        self._rng = random.Random(0)

    def ask(
        self, prompt: int, tokens: int, *, prompts: int = 1, choices: int = 1, share: str = ""
    ) -> list[str]:
        """An HTTP request. Returns the ids of its rows."""
        answer, made = f"answer-{next(self._names)}", []
        for number in range(prompts):
            ids = tuple(self._rng.randrange(100) for _ in range(prompt))
            group = f"{answer}-{number}" if choices > 1 else None
            for choice in range(choices):
                name = f"{answer}-{number}-{choice}"
                sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
                policy = PolicyConfig(policy="fixed")
                request = Request(
                    name, ids, sampling, policy, 0.0, choice, group, answer_id=answer, share=share
                )
                self.scheduler.add(Sequence.of(request, 4096))
                made.append(name)
        return made

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        assert batch.tokens, "a step without work"
        self.steps += 1
        self.displaced += len(batch.preempted)
        self.fed += batch.tokens
        for chunk in batch.chunks:
            if chunk.sequence.request.request_id not in self.admitted:
                self.admitted.append(chunk.sequence.request.request_id)
        self.scheduler.advance(batch)
        self.scheduler.register(batch.rows)
        for row in batch.rows:
            name = row.request.request_id
            self.first.setdefault(name, self.steps)
            self.drawn[row.request.share] = self.drawn.get(row.request.share, 0) + 1
            if take(row, len(row.tokens) % 50) is not None:
                self.scheduler.finish(row)
                self.end[name] = self.steps
        return batch

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def until(self, name: str) -> int:
        """Steps until the first token of a request."""
        begin = self.steps
        while name not in self.first:
            self.step()
        return self.steps - begin


def test_a_short_chat_behind_sixty_long_replies_of_its_share() -> None:
    line = Line()
    for _ in range(60):
        line.ask(60, 400)
    line.run(3)
    (chat,) = line.ask(40, 30)
    # half of the places change hands every TURN steps, and 44 came before it
    assert line.until(chat) <= (60 - 16) / 8 * TURN + TURN + 8
    line.finish()
    assert len(line.end) == 61
    # each of those that waited took a place once, and a place that is given up costs less than a block again
    assert line.displaced <= 61
    assert line.fed < 1.02 * (60 * 460 + 70) + line.displaced * (BLOCK + 1)


def test_when_all_have_had_a_turn_a_newcomer_waits_for_nobody() -> None:
    line = Line()
    for _ in range(60):
        line.ask(60, 400)
    line.run(150)
    (chat,) = line.ask(40, 30)
    assert line.until(chat) <= 2


def test_a_short_chat_behind_a_request_for_a_thousand_rows() -> None:
    line = Line()
    rows = line.ask(20, 60, prompts=64, choices=16)
    line.run(TURN + 4)
    (chat,) = line.ask(40, 30)
    assert line.until(chat) <= 2
    while chat not in line.end:
        line.step()
    assert line.steps - line.first[chat] <= 30
    line.finish()
    assert line.admitted == sorted(line.admitted, key=[*rows, chat].index) or line.admitted.index(chat) < 64
    assert [name for name in line.admitted if name != chat] == rows, "the order of an answer's rows"


@pytest.mark.parametrize("blocks", [600, 4000])
def test_a_short_chat_behind_long_prompts(blocks: int) -> None:
    line = Line(blocks=blocks)
    for _ in range(12):
        line.ask(4000, 60)
    line.run(5)
    (chat,) = line.ask(40, 30)
    assert line.until(chat) <= 2
    line.finish()
    assert len(line.end) == 13


def test_long_prompts_do_not_push_each_other_out_of_a_small_cache() -> None:
    line = Line(blocks=700)
    for _ in range(60):
        line.ask(500, 100)
    line.run(40)
    (chat,) = line.ask(40, 30)
    assert line.until(chat) <= 2
    line.finish()
    assert line.fed < 1.03 * (60 * 600 + 70)


def test_a_long_prompt_gets_half_of_every_step() -> None:
    line = Line(slots=8, budget=64)
    (long,) = line.ask(2000, 4)
    while long not in line.first:
        line.ask(20, 1)
        line.ask(20, 1)
        line.step()
    assert line.steps <= 2000 / (64 - 8) * 2 + 4


def test_a_long_prompt_is_passed_a_bounded_number_of_times() -> None:
    line = Line(slots=2, budget=64)
    line.ask(10, 100)
    line.ask(10, 100)
    line.step()
    (long,) = line.ask(300, 4)
    while long not in line.admitted:
        line.ask(10, 1)
        line.step()
    assert len(line.admitted) <= 2 + PATIENCE + 1


def test_who_gave_its_place_up_comes_back_however_many_come() -> None:
    line = Line(slots=4)
    old = [line.ask(60, 100)[0] for _ in range(4)]
    line.step()
    for _ in range(4000):
        line.ask(10, 20)
        line.step()
        if all(name in line.end for name in old):
            break
    assert all(name in line.end for name in old)
    assert line.displaced >= 2


def test_shares_get_the_same_whatever_they_ask_for() -> None:
    line = Line()
    for _ in range(80):
        line.ask(30, 200, share="many requests")
    line.ask(30, 200, prompts=8, choices=16, share="one request")
    line.run(60)  # until places have changed hands
    line.drawn.clear()
    line.run(600)
    many, one = line.drawn["many requests"], line.drawn["one request"]
    assert many + one > 600 * 15
    assert abs(many - one) <= 16 * TURN


def test_a_share_that_comes_late_gets_half_of_the_places_at_once() -> None:
    line = Line()
    for _ in range(40):
        line.ask(30, 300, share="early")
    line.run(60)
    late = [line.ask(30, 300, share="late")[0] for _ in range(20)]
    line.run(9)
    assert sum(name in line.first for name in late) == 8
    line.run(100)
    assert sum(row.request.share == "late" for row in line.step().decode) == 8
    line.finish()
    assert len(line.end) == 60


def test_equals_come_in_order() -> None:
    line = Line(slots=3)
    asked = []
    for _ in range(30):
        asked += line.ask(20, 25)
        line.step()
    line.finish()
    assert line.admitted == asked


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    slots=st.integers(1, 6),
    blocks=st.integers(14, 60),
    asked=st.lists(
        st.tuples(
            st.integers(1, 150),
            st.integers(1, 60),
            st.integers(1, 4),
            st.integers(1, 3),
            st.sampled_from("ab"),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_every_request_ends_and_answers_keep_their_order(
    slots: int, blocks: int, asked: list[tuple[int, int, int, int, str, int]]
) -> None:
    line = Line(slots=slots, blocks=blocks, budget=slots + 24)
    answers = []
    for prompt, tokens, prompts, choices, share, steps in asked:
        answers.append(line.ask(prompt, tokens, prompts=prompts, choices=choices, share=share))
        for _ in range(steps):
            if not line.scheduler.idle:
                line.step()
    line.finish()
    assert set(line.end) == {name for answer in answers for name in answer}
    for answer in answers:
        place = {name: at for at, name in enumerate(line.admitted)}
        assert sorted(answer, key=place.__getitem__) == answer
    assert line.pool.used == 0
    assert line.scheduler.gauges().waiting == 0
