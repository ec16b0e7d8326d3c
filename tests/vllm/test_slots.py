"""Slots of running requests are distinct, and a request id is in use once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_server.engine.base import EngineError
from entropick_server.engine.vllm.slots import RequestSlots


@settings(deadline=None)
@given(
    limit=st.integers(1, 4),
    moves=st.lists(st.tuples(st.sampled_from(["enter", "begin", "leave"]), st.integers(0, 9)), max_size=60),
)
def test_slots_are_distinct(limit: int, moves: list[tuple[str, int]]) -> None:
    """Against a model of sets: vLLM begins no more than ``limit`` requests, in any order."""
    slots = RequestSlots(limit)
    waiting: set[str] = set()
    running: dict[str, int] = {}
    for what, number in moves:
        name = str(number)
        if what == "enter":
            if name in waiting or name in running:
                with pytest.raises(EngineError, match="in use"):
                    slots.enter(name)
            else:
                slots.enter(name)
                waiting.add(name)
                assert slots.slot(name) == -1
        elif what == "begin" and name in waiting and len(running) < limit:
            slots.begin(name)
            waiting.remove(name)
            running[name] = slots.slot(name)
        elif what == "leave" and name in waiting | set(running):
            assert slots.leave(name) == running.pop(name, -1)
            waiting.discard(name)
        assert sorted(running.values()) == sorted(set(running.values()) & set(range(limit)))
        assert slots.idle == (not waiting and not running)


def test_more_requests_than_slots_share_the_last() -> None:
    """When they are gone the slots are distinct again."""
    slots = RequestSlots(2)
    for name in ("a", "b", "c"):
        slots.enter(name)
        slots.begin(name)
    assert [slots.slot(name) for name in "abc"] == [0, 1, 1]
    for name in ("a", "b", "c"):
        slots.leave(name)
    for name in ("d", "e"):
        slots.enter(name)
        slots.begin(name)
    assert {slots.slot("d"), slots.slot("e")} == {0, 1}
