"""A trial of a fault: what was seen before it was mended, and a function that brings it about again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .rows import run_test


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a trial, and whether the server held; only generous bounds are part of that."""

    figures: str
    held: bool | None
    """None where it could not be run here"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A fault with its figures before, and the function that measures them again on the server of today.

    ``group``: the heading under which the page has it. ``tests``: the tests that ``run`` runs, where no
    client can bring the fault about.
    """

    name: str
    group: str
    fault: str
    before: str
    run: Callable[[], Awaitable[Result]]
    tests: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that runs this trial alone."""
        if self.tests:
            return f"pytest {' '.join(self.tests)}"
        return f"make robustness ARGS='--trials {self.name}'"


def trial(
    name: str, group: str, fault: str, before: str
) -> Callable[[Callable[[], Awaitable[Result]]], Trial]:
    """Returns a decorator that makes a trial of a function."""
    return lambda run: Trial(name, group, fault, before, run)


def by_tests(name: str, group: str, fault: str, before: str, *tests: str) -> Trial:
    """Returns a trial that runs tests of the repository."""

    async def run() -> Result:
        seen = [await asyncio.to_thread(run_test, test) for test in tests]
        return Result("; ".join(one.body for one in seen), all(one.held for one in seen))

    return Trial(name, group, fault, before, run, tests)


def milliseconds(seconds: float) -> str:
    """Returns a time as text: milliseconds to two digits below a second, else seconds."""
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds * 1000:.0f} ms"
