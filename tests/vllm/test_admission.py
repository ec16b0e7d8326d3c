"""Who runs and who waits: places are distinct, choices wait as one, the queue has an end."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.base import EngineError, QueueFullError
from entropick_server.engine.types import GenerationDefaults, ModelInfo, Request
from entropick_server.engine.vllm.admission import Admission, problem

INFO = ModelInfo("m", "m", "llama", 16, 50, (2,), (0,), 1, "float32", "cpu", GenerationDefaults(), 1)


def request(
    name: str = "a",
    prompt: tuple[int, ...] = (1, 2),
    policy: PolicyConfig | None = None,
    group: str | None = None,
    forced: tuple[int, ...] = (),
    seed: int = 0,
    tokens: int = 4,
) -> Request:
    sampling = SamplingParams(max_tokens=tokens, seed=seed)
    arrival = time.monotonic()
    return Request(name, prompt, sampling, policy or PolicyConfig(preset="seed"), arrival, 0, group, forced)


@settings(deadline=None)
@given(
    limit=st.integers(1, 4),
    queue=st.integers(0, 3),
    moves=st.lists(st.tuples(st.sampled_from(["come", "begin", "leave"]), st.integers(0, 9)), max_size=60),
)
def test_places_and_the_queue(limit: int, queue: int, moves: list[tuple[str, int]]) -> None:
    """Against a model of sets: vLLM begins no more than ``limit`` requests, in any order."""
    here = Admission(limit, queue)
    waiting: set[str] = set()
    running: dict[str, int] = {}
    for what, number in moves:
        name = str(number)
        if what == "come":
            if name in waiting or name in running:
                with pytest.raises(EngineError, match="in use"):
                    here.check(request(name))
            elif len(waiting) + len(running) >= limit + queue:
                with pytest.raises(QueueFullError):
                    here.check(request(name))
            else:
                here.check(request(name))
                here.enter(request(name))
                waiting.add(name)
                assert here.slot(name) == -1
        elif what == "begin" and name in waiting and len(running) < limit:
            here.begin(name)
            waiting.remove(name)
            running[name] = here.slot(name)
        elif what == "leave" and name in waiting | set(running):
            assert here.leave(name) == running.pop(name, -1)
            waiting.discard(name)
        assert sorted(running.values()) == sorted(set(running.values()) & set(range(limit)))
        assert here.idle == (not waiting and not running)


def test_choices_of_a_prompt_wait_as_one() -> None:
    """A group that waits takes its mates along, however full the queue is; one that runs does not."""
    here = Admission(1, 1)
    for name in ("a", "b", "c"):
        here.check(request(name, group="g"))
        here.enter(request(name, group="g"))
    here.begin("a")
    with pytest.raises(QueueFullError):
        here.check(request("other"))
    here.check(request("d", group="g"))
    here.begin("b")
    here.begin("c")
    with pytest.raises(QueueFullError):
        here.check(request("d", group="g"))
    assert [here.leave(name) for name in "abc"] == [0, 0, 0]


def test_more_than_there_are_places_share_the_last() -> None:
    """When they are gone the places are distinct again."""
    here = Admission(2, 3)
    for name in ("a", "b", "c"):
        here.enter(request(name))
        here.begin(name)
    assert [here.slot(name) for name in "abc"] == [0, 1, 1]
    for name in ("a", "b", "c"):
        here.leave(name)
    for name in ("d", "e"):
        here.enter(request(name))
        here.begin(name)
    assert {here.slot("d"), here.slot("e")} == {0, 1}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(), None),
        (request(prompt=()), "the prompt is empty"),
        (request(prompt=(1, 50)), "prompt token ids must be 0 to 49"),
        (request(prompt=(-1,)), "prompt token ids must be 0 to 49"),
        (request(forced=(50,)), "forced token ids must be 0 to 49"),
        (request(prompt=(1,) * 15), None),
        (request(prompt=(1,) * 16), "the prompt has 16 tokens; with one of reply the context holds 16"),
        (request(tokens=0), "max_tokens must be at least 1"),
        (request(tokens=0, forced=(3,)), None),
        (request(seed=1 << 63), "seed must fit into 64 bits"),
        (request(seed=-(1 << 63)), None),
        (request(policy=PolicyConfig(preset="calibrated")), "preset 'calibrated' needs a profile"),
        (request(policy=PolicyConfig(preset="seed", overrides={"top_p": 7})), "overrides.top_p"),
    ],
)
def test_what_can_never_run(asked: Request, message: str | None) -> None:
    why = problem(asked, INFO, None)
    assert why is None if message is None else why is not None and message in why
