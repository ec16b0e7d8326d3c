"""Replies in waves: which are drawn side by side, in which order they end, and what a failure leaves."""

from __future__ import annotations

import asyncio

import pytest

from entropick_server.consensus import run
from entropick_server.consensus.config import StopConfig
from entropick_server.consensus.run import decide
from entropick_server.consensus.weights import Vote


class Drawer:
    """Replies that end when they are told to."""

    def __init__(self, answers: str, ends: tuple[int, ...] | None = None) -> None:
        self.answers = answers
        self.ends = ends or tuple(range(len(answers)))
        """the order in which they come to their ends"""
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.waves: list[int] = []
        self._event = asyncio.Event()

    async def draw(self, number: int) -> Vote:
        self.begun.append(number)
        try:
            await asyncio.sleep(0.005)  # the whole wave has begun
            while any(n in self.begun and n not in self.ended for n in self.ends[: self.ends.index(number)]):
                await asyncio.sleep(0.001)
            if self.answers[number] == "!":
                raise RuntimeError(f"reply {number}")
            await asyncio.sleep(0.005)  # ends come apart
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        self.ended.append(number)
        return Vote(self.answers[number])


async def test_waves_and_the_order_of_numbers() -> None:
    drawer = Drawer("abacaaa", ends=(6, 5, 4, 3, 2, 1, 0))
    verdict, votes = await decide(StopConfig("esc", window=3), 7, drawer.draw)
    assert drawer.begun == [*range(6)]
    # behind a, b, a two more might decide it
    assert drawer.ended == [2, 1, 0, 4, 3, 5]
    assert "".join(vote.answer or "-" for vote in votes) == "abacaa"
    assert (verdict.winner, verdict.answer, verdict.reason) == (0, "a", "decided")


async def test_nothing_beyond_the_stop_is_begun() -> None:
    drawer = Drawer("aaaaaaaa")
    verdict, votes = await decide(StopConfig("esc", window=2), 8, drawer.draw)
    assert drawer.begun == [0, 1]
    assert (len(votes), verdict.reason) == (2, "agreed")


async def test_the_order_of_the_ends_changes_nothing() -> None:
    outcomes = []
    for ends in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        drawer = Drawer("abbab", ends)
        outcomes.append(await decide(StopConfig("beta"), 5, drawer.draw))
    assert outcomes[0] == outcomes[1] == outcomes[2]


async def test_a_failure_ends_all() -> None:
    drawer = Drawer("aa!a", ends=(2, 3, 0, 1))
    with pytest.raises(RuntimeError, match="reply 2"):
        await decide(StopConfig("all"), 4, drawer.draw)
    assert sorted(drawer.cancelled) == [0, 1, 3]


async def test_a_cancel_ends_all() -> None:
    begun = asyncio.Event()
    ended: list[int] = []

    async def draw(number: int) -> Vote:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
        return Vote("a")

    task = asyncio.create_task(decide(StopConfig("all"), 3, draw))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [0, 1, 2]


async def test_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    async def report(ended: int, begun: int) -> None:
        told.append((ended, begun))

    drawer = Drawer("abaa")
    await decide(StopConfig("esc", window=2), 4, drawer.draw, report)
    assert [*dict.fromkeys(told)] == [(1, 2), (2, 2), (3, 4), (4, 4)]
    # while nothing ends, now and then
    monkeypatch.setattr(run, "KEEP_ALIVE", 0.001)
    told.clear()
    gate = asyncio.Event()

    async def draw(number: int) -> Vote:
        await gate.wait()
        return Vote("a")

    task = asyncio.create_task(decide(StopConfig("all"), 2, draw, report))
    while len(told) < 3:
        await asyncio.sleep(0.001)
    assert set(told) == {(0, 2)}
    gate.set()
    assert (await task)[0].answer == "a"
