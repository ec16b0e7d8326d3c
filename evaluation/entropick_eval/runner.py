"""Computes the replies that are missing: concurrent, resumable, with counted errors."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from .arms import Arm
from .columns import rounded
from .replies import OFFSET, TOP_LOGPROBS, Reply
from .store import FEATURE_DIGITS, Result, Store, features_of
from .targets import FailedError, RefusedError, Target
from .tasks import Item, canonical

Keep = Literal["none", "figures", "answers", "scores", "all"]
SCORES: Final = ("surprisal", "logits_entropy", OFFSET)
"""the signals that ``scores`` keeps of every token"""
ANSWERS: Final = ("surprisal", OFFSET)
"""the signals that ``answers`` keeps of every token, beside :data:`OF_ENTROPY`"""
OF_ENTROPY: Final = (
    "mean_entropy",
    "late_entropy",
    "lowest_excess",
    "lowest_excess_group",
    "error_probability",
)
"""the features that ``answers`` keeps because they do not follow from its signals"""
FIGURES: Final = ("mean_logprob", "mean_entropy", "error_probability")
"""the features that ``figures`` keeps, without any signal"""
_OF_THE_ITEM: Final = ("messages", "stop", "max_tokens", "max_completion_tokens")
"""fields whose refusal is the item's matter, not the arm's"""
_FAILURES_IN_A_ROW: Final = 20


class StoppedError(RuntimeError):
    """The end of a run because nothing but failures came back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The way to ask for replies."""

    max_tokens: int = 256
    keep: Keep = "scores"
    concurrency: int = 16
    any_code: bool = False
    """whether results of other code count as done"""


@dataclass(slots=True)
class Outcome:
    """The course of a run: replies that came, and the errors by arm."""

    computed: int = 0
    found: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """arm -> the server's message"""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(arm, message) -> items without a reply"""


@dataclass(frozen=True, slots=True)
class Job:
    """A reply to compute."""

    arm: Arm
    item: Item
    sample: int


def seed_of(item: Item, arm: Arm, sample: int) -> int:
    """Returns the seed of a reply: 31 bits that depend on the item's id, the arm's body and the sample."""
    text = canonical([item.id, arm.key, sample])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def request_body(job: Job, plan: Plan, ours: bool) -> dict[str, Any]:
    """Returns the request of a job. The arm's fields win over the item's and the plan's.

    Another server gets no ``entropick`` block, and gives log probabilities in the place of signals.
    """
    item = job.item
    body: dict[str, Any] = {
        "messages": list(item.messages),
        "max_tokens": item.max_tokens or plan.max_tokens,
        "seed": seed_of(item, job.arm, job.sample),
    }
    if item.stop:
        body["stop"] = list(item.stop)
    body |= job.arm.body
    if not ours:
        body.pop("entropick", None)
        if plan.keep != "none":
            body = {"logprobs": True, "top_logprobs": TOP_LOGPROBS, **body}
        return body
    level = {"none": "none", "all": "full"}.get(plan.keep, "tokens")
    block = {"telemetry": level, **body.get("entropick", {})}
    extract = item.extract or (item.check.extract if item.check is not None else None)
    if isinstance(block.get("consensus"), Mapping):
        if extract is not None:
            block["consensus"] = {"extract": extract, **block["consensus"]}
        elif "extract" not in block["consensus"]:
            block["consensus"] = False  # an open prompt has no answer to vote on
    elif extract is not None and level != "none":
        block.setdefault("answer", extract)
    body["entropick"] = block
    return body


def needs_entropick(arm: Arm) -> bool:
    """True if an arm asks for a policy of ours other than ``fixed``, which another server does not have."""
    block = arm.body.get("entropick")
    if block is None:
        return False
    return block.get("policy") != "fixed" or block.get("consensus") is not None


def to_result(job: Job, reply: Reply, code: str, latency: float, keep: Keep) -> Result:
    """Returns the result of a reply, rounded as it is stored."""
    item = job.item
    signals = {name: rounded(name, column) for name, column in reply.signals.items()}
    found = features_of(signals)
    if reply.rauq is not None:
        found["rauq"] = round(reply.rauq, FEATURE_DIGITS)
    if reply.error_probability is not None:
        found["error_probability"] = round(reply.error_probability, FEATURE_DIGITS)
    result = Result(
        item=item.id,
        digest=item.digest,
        sample=job.sample,
        code=code,
        text=reply.text,
        finish=reply.finish,
        tokens=reply.tokens,
        spent=reply.spent,
        correct=None if item.check is None else item.check.grade(reply.text),
        latency=round(latency, 2),
        features=found,
        signals=signals,
    )
    return reduced(result, keep)


def reduced(result: Result, keep: Keep) -> Result:
    """Returns a result with no more signals and features than ``keep`` says."""
    if keep == "all":
        return result
    names: tuple[str, ...] = {"answers": ANSWERS, "scores": SCORES}.get(keep, ())
    signals = {name: column for name, column in result.signals.items() if name in names}
    known = features_of(signals)
    kept = {"answers": OF_ENTROPY, "scores": ("error_probability",)}.get(keep, FIGURES)
    features = {name: value for name, value in result.features.items() if name in known or name in kept}
    return replace(result, signals=signals, features=features | known)


class Runner:
    """The computation of the missing replies of some arms to some items."""

    def __init__(self, target: Target, store: Store, plan: Plan) -> None:
        self._target = target
        self._store = store
        self._plan = plan
        self.outcome = Outcome()
        self._failures = 0

    def code_of(self, arm: Arm) -> str | None:
        """Returns the digest of code that a stored result of an arm must have; None where any is taken."""
        return None if self._plan.any_code else self._target.identity.code_of(arm.reads_profile)

    def missing(self, items: Sequence[Item], samples: Sequence[tuple[Arm, int]]) -> Iterator[Job]:
        """Yields the jobs whose results are not stored, item by item; open prompts get one reply an arm."""
        for item in sorted(items, key=lambda one: hashlib.sha256(one.id.encode()).digest()):
            for arm, count in samples:
                for sample in range(count if item.check is not None else 1):
                    if self._store.get(arm, item, sample, self.code_of(arm)) is None:
                        yield Job(arm, item, sample)
                    else:
                        self.outcome.found += 1

    async def run(
        self, items: Sequence[Item], samples: Sequence[tuple[Arm, int]], progress: Callable[[int, int], None]
    ) -> None:
        """Computes the missing replies. ``progress`` is called with jobs done and all jobs.

        An arm that the server refuses is given up with its message; a reply that fails is counted and left
        out. Raises StoppedError after 20 failures without a success between them.
        """
        ours = self._target.identity.ours
        for arm, _ in samples:
            if not ours and needs_entropick(arm):
                self.outcome.refused.setdefault(arm.name, "the server is no entropick server")
        jobs = list(self.missing(items, samples))
        waiting = iter(jobs)
        done = 0
        progress(0, len(jobs))

        async def work() -> None:
            nonlocal done
            for job in waiting:
                if job.arm.name not in self.outcome.refused:
                    await self._one(job, ours)
                done += 1
                progress(done, len(jobs))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._plan.concurrency, len(jobs))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            # the first worker's error ended the others
            raise errors.exceptions[0] from errors

    async def _one(self, job: Job, ours: bool) -> None:
        begin = time.monotonic()
        try:
            reply = await self._target.ask(request_body(job, self._plan, ours))
        except RefusedError as error:
            self._refused(job, error)
            return
        except FailedError as error:
            self.outcome.errors[job.arm.name, str(error)[:300]] += 1
            self._failures += 1
            if self._failures >= _FAILURES_IN_A_ROW:
                raise StoppedError(
                    f"{self._failures} requests failed in a row, the last with: {error}"
                ) from error
            return
        self._failures = 0
        code = self._target.identity.code_of(job.arm.reads_profile)
        result = to_result(job, reply, code, time.monotonic() - begin, self._plan.keep)
        self._store.add(job.arm, result)
        self.outcome.computed += 1

    def _refused(self, job: Job, error: RefusedError) -> None:
        """Counts a refusal: of the item where a field of the item is at fault, else of the arm."""
        field_of_item = (error.param or "").split(".")[0].split("[")[0] in _OF_THE_ITEM
        if error.status == 413 or error.code == "context_length_exceeded" or field_of_item:
            self.outcome.errors[job.arm.name, f"{error.status}: {str(error)[:300]}"] += 1
        else:
            self.outcome.refused.setdefault(job.arm.name, f"{error.status}: {str(error)[:500]}")
