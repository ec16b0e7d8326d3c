"""Computes a random part of the stored results again and compares them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .arms import Arm
from .runner import Job, Plan, Runner, request_body, to_result
from .store import Result, Store
from .targets import FailedError, RefusedError, Target
from .tasks import Item

TOLERANCE: Final = 2e-3
"""difference of a feature that counts as equal: sums of rounded bits on another processor"""


@dataclass(frozen=True, slots=True)
class Rechecked:
    """A stored result that was computed again."""

    arm: str
    item: str
    sample: int
    same_text: bool
    """text, end and all counts of tokens are equal"""
    same_figures: bool
    """the text is, and every feature, to the tolerance"""
    error: str | None = None


def choose(
    items: Sequence[Item],
    jobs: Sequence[tuple[Arm, int]],
    store: Store,
    runner: Runner,
    share: float,
    seed: int,
) -> list[tuple[Job, Result]]:
    """Returns a random share of the stored results of some arms and items, at least one result."""
    stored = list(_stored(items, jobs, store, runner))
    count = min(len(stored), max(1, round(share * len(stored)))) if stored else 0
    return random.Random(seed).sample(stored, count)


def _stored(
    items: Sequence[Item], jobs: Sequence[tuple[Arm, int]], store: Store, runner: Runner
) -> Iterator[tuple[Job, Result]]:
    for item in items:
        for arm, count in jobs:
            for sample in range(count):
                result = store.get(arm, item, sample, runner.code_of(arm))
                if result is not None:
                    yield Job(arm, item, sample), result


async def recheck(
    chosen: Sequence[tuple[Job, Result]], target: Target, plan: Plan, progress: Callable[[int, int], None]
) -> list[Rechecked]:
    """Computes results again and compares each with the stored result; nothing is stored."""
    gate = asyncio.Semaphore(plan.concurrency)
    done = 0
    progress(0, len(chosen))

    async def one(job: Job, old: Result) -> Rechecked:
        nonlocal done
        async with gate:
            try:
                reply = await target.ask(request_body(job, plan, target.identity.ours))
            except (RefusedError, FailedError) as error:
                return Rechecked(job.arm.name, job.item.id, job.sample, False, False, str(error))
            finally:
                done += 1
                progress(done, len(chosen))
        new = to_result(job, reply, old.code, 0.0, plan.keep)
        same = _same_text(old, new)
        return Rechecked(job.arm.name, job.item.id, job.sample, same, same and _same_figures(old, new))

    return list(await asyncio.gather(*(one(job, old) for job, old in chosen)))


def _same_text(old: Result, new: Result) -> bool:
    return (old.text, old.finish, old.tokens, old.spent) == (new.text, new.finish, new.tokens, new.spent)


def _same_figures(old: Result, new: Result) -> bool:
    """Compares the features that both have: one kept without signals has none."""
    names = old.features.keys() & new.features.keys()
    return all(
        abs(old.features[name] - new.features[name]) <= TOLERANCE * max(1.0, abs(old.features[name]))
        for name in names
    )
