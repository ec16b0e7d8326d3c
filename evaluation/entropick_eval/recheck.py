"""Computes a random part of the stored results again and compares them.

Where the code that decides replies was changed, stored results count as stale. Most changes alter no reply:
a random part that comes out the same is the reason to take the others over (:func:`restamp`), with a record
of it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .arms import Arm
from .runner import Job, Plan, request_body, to_result
from .store import Result, Stamp, Store, features_of
from .targets import FailedError, RefusedError, Target
from .tasks import Item

TOLERANCE: Final = 0.0101
"""difference of a figure in bits that counts as equal, of a larger feature the relative one: the last digit
that is kept of a token's figure, which may round the other way on another processor"""

ESTIMATES: Final = ("error_probability",)
"""features that are not compared: estimates by coefficients that decide nothing, and that are fitted on these
very results"""

LEAST: Final = 5
"""results of an arm, at least, that must come out the same before the others are taken over"""


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


@dataclass(frozen=True, slots=True)
class Restamped:
    """The outcome of :func:`restamp` for the stale results of an arm."""

    arm: str
    codes: tuple[str, ...]
    of: int
    """stale results"""
    again: tuple[Rechecked, ...]
    """those that were computed again"""

    @property
    def equal(self) -> bool:
        """True if every result that was computed again came out the same."""
        return all(one.same_text and one.same_figures for one in self.again)


def stored(
    items: Sequence[Item], arms: Sequence[Arm], store: Store, code_of: Callable[[Arm], str | None]
) -> Iterator[tuple[Job, Result]]:
    """Yields every stored result of some arms and items; ``code_of`` says which code, None is any."""
    known = {item.id: item for item in items}
    for arm in arms:
        for result in store.results(arm):
            item = known.get(result.item)
            if item is not None and store.get(arm, item, result.sample, code_of(arm)) is not None:
                yield Job(arm, item, result.sample), result


def choose(
    pool: Sequence[tuple[Job, Result]], share: float, seed: int, least: int = 1
) -> list[tuple[Job, Result]]:
    """Returns a random share of stored results, ``least`` results or more where there are as many."""
    count = min(len(pool), max(least, round(share * len(pool))))
    return random.Random(seed).sample(pool, count)


def within(chosen: Sequence[tuple[Job, Result]], tokens: int) -> list[tuple[Job, Result]]:
    """Returns the first results that together spent no more than ``tokens``; the first in any case."""
    spent = list(itertools.accumulate(result.spent for _, result in chosen))
    return list(chosen[: max(1, sum(total <= tokens for total in spent))])


async def restamp(
    items: Sequence[Item],
    arms: Sequence[Arm],
    store: Store,
    target: Target,
    plan: Plan,
    share: float,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Restamped]:
    """Takes results of older code over as today's where a random share of an arm's comes out the same.

    Of each arm :data:`LEAST` results or more are computed again; where one differs, none of the arm is
    stamped. Arms without a stale result are left out.
    """
    code_of = {arm.key: target.identity.code_of(arm.reads_profile) for arm in arms}
    stale: dict[str, list[tuple[Job, Result]]] = {}
    for job, result in stored(items, arms, store, lambda _: None):
        if result.code != code_of[job.arm.key]:
            stale.setdefault(job.arm.name, []).append((job, result))
    chosen = [one for pool in stale.values() for one in choose(pool, share, seed, LEAST)]
    found = await recheck(chosen, target, plan, progress)
    by_name = {arm.name: arm for arm in arms}
    outcome = []
    for name, pool in stale.items():
        codes = tuple(sorted({result.code for _, result in pool}))
        one = Restamped(name, codes, len(pool), tuple(again for again in found if again.arm == name))
        if one.equal:
            arm = by_name[name]
            today = time.strftime("%Y-%m-%d", time.gmtime())
            stamp = Stamp(codes, code_of[arm.key], today, len(one.again), len(pool))
            store.stamp(arm, [result.key for _, result in pool], stamp)
        outcome.append(one)
    return outcome


def differing(found: Sequence[Rechecked]) -> Iterator[str]:
    """Yields a line for each result that came out otherwise."""
    for one in found:
        if not one.same_text or not one.same_figures:
            what = one.error or ("another text" if not one.same_text else "other figures")
            yield f"differs: {one.arm}, item {one.item}, sample {one.sample}: {what}"


def shares(found: Sequence[Rechecked]) -> str:
    """Returns the line that says which share came out the same."""
    texts, figures = (
        sum(marks) for marks in zip(*((o.same_text, o.same_figures) for o in found), strict=True)
    )
    return (
        f"{len(found)} results computed again: text and tokens equal {texts / len(found):.1%}, "
        f"figures equal {figures / len(found):.1%}"
    )


def restamped_line(one: Restamped) -> str:
    """Returns the line that says whether an arm's stale results were taken over."""
    again = f"{len(one.again)} of {one.of} computed again"
    if one.equal:
        return f"stamped: {one.arm}: {again}, all equal"
    different = sum(not (each.same_text and each.same_figures) for each in one.again)
    return f"changed: {one.arm}: {again}, {different} differ; left stale"


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
    """Compares the signals that both have, and the features that do not follow from them."""
    following = features_of({name: column for name, column in old.signals.items() if name in new.signals})
    features = all(
        abs(value - new.features.get(name, value)) <= TOLERANCE * max(1.0, abs(value))
        for name, value in old.features.items()
        if name not in following and name not in ESTIMATES
    )
    return features and all(
        _same_column(column, new.signals[name]) for name, column in old.signals.items() if name in new.signals
    )


def _same_column(old: Sequence[float | None], new: Sequence[float | None]) -> bool:
    """True if every value is the same to the tolerance, or absent in both."""
    return len(old) == len(new) and all(
        a is b or (a is not None and b is not None and abs(a - b) <= TOLERANCE)
        for a, b in zip(old, new, strict=True)
    )
