"""The drawing of replies, in waves of as many as are needed in any case, until the vote is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from .config import StopConfig
from .rules import Verdict, judge, needed
from .weights import Vote

KEEP_ALIVE: Final = 10.0
"""seconds between two reports of the progress while no reply comes to its end"""
Draw = Callable[[int], Awaitable[Vote]]
"""generates the reply of a number and returns its vote; cancelling it cancels the reply"""
Report = Callable[[int, int], Awaitable[None]]
"""is told, now and then, how many replies have come to their end and how many were begun"""


async def decide(
    rule: StopConfig, k: int, draw: Draw, report: Report | None = None
) -> tuple[Verdict, list[Vote]]:
    """Draws replies until the rule stops. Returns the verdict and the votes, in order of their numbers.

    The first error of a reply ends all of them and is raised. None of them is left behind, whatever happens.
    """
    votes: list[Vote] = []
    while wave := needed(rule, votes, k):
        votes += await _wave(draw, len(votes), wave, report)
    return judge(rule, votes, k), votes


async def _wave(draw: Draw, first: int, count: int, report: Report | None) -> list[Vote]:
    """Draws replies side by side. Returns their votes in order of their numbers."""
    tasks = [asyncio.ensure_future(draw(first + i)) for i in range(count)]
    try:
        running = set(tasks)
        while running:
            done, running = await asyncio.wait(
                running,
                timeout=None if report is None else KEEP_ALIVE,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                task.result()
            if report is not None:
                await report(first + count - len(running), first + count)
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
