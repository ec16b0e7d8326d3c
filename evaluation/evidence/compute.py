"""Computes missing results, takes older results over, and computes a random part of them again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from tqdm import tqdm

from entropick_eval import recheck
from entropick_eval.arms import Arm
from entropick_eval.runner import Keep, Runner, reduced
from entropick_eval.runner import Plan as Asking
from entropick_eval.store import Store
from entropick_eval.targets import Target
from entropick_eval.tasks import Item

from .plan import EvidencePlan, Run

RESULTS: Final = Path(__file__).parent / "results"
_IDENTITY: Final = "model.json"


class ModelError(RuntimeError):
    """An error because the stored results are another model's."""


@dataclass(frozen=True, slots=True)
class Quick:
    """The outcome of computing a random part of the stored results again."""

    stored: int
    again: tuple[recheck.Rechecked, ...]
    tokens: int
    seconds: float


def asking(plan: EvidencePlan, keep: Keep) -> Asking:
    """Returns the way to ask for replies of which ``keep`` is kept."""
    return Asking(plan.max_tokens, keep, int(plan.server["max_num_seqs"]))


def kept(plan: EvidencePlan, run: Run, arm: Arm) -> Keep:
    """Returns how much is kept of an arm's replies: more where rules look at them, little of open prompts.

    Of the baseline on the fit half every signal is: attention is judged as a predictor of errors there.
    """
    if all(item.check is None for item in run.items) or arm.name not in plan.shared(run.model):
        return "figures"
    if arm.name == plan.baseline:
        return "all" if run.split == "fit" and not run.apart else "scores"
    return "answers"


def open_store(results: Path, model: str, arms: Sequence[Arm]) -> Store:
    """Returns the results of a model, read as far as some arms go."""
    store = Store(results, model)
    store.load(arms)
    return store


def identity(results: Path, model: str) -> dict[str, Any]:
    """Returns the record of the model whose results are stored; empty before the first result."""
    path = results / model / _IDENTITY
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def claim(results: Path, model: str, digest: str, name: str, anew: bool) -> None:
    """Notes the model that a folder of results belongs to. Raises ModelError where it is another one's.

    ``anew``: remove the results of another model instead.
    """
    known = identity(results, model).get("model")
    folder = results / model
    if known not in (None, digest):
        if not anew:
            raise ModelError(
                f"{folder} holds results of another {model} ({known}, this is {digest}); --anew removes them"
            )
        for path in folder.glob("*.jsonl*"):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    record = {"model": digest, "name": name}
    (folder / _IDENTITY).write_text(json.dumps(record) + "\n", encoding="utf-8")


async def complete(plan: EvidencePlan, runs: Sequence[Run], target: Target, store: Store) -> list[str]:
    """Computes the missing results of some runs; returns a line for each arm that did not come out."""
    said: list[str] = []
    try:
        for run in runs:
            for keep in get_args(Keep):
                jobs = [job for job in run.arms.jobs() if kept(plan, run, job[0]) == keep]
                if not jobs:
                    continue
                runner = Runner(target, store, asking(plan, keep))
                kind = run.items[0].family if len({item.family for item in run.items}) == 1 else "questions"
                with progress(f"{run.model} {run.split} {kind}", runner) as show:
                    await runner.run(run.items, jobs, show)
                outcome = runner.outcome
                said += [f"{name} was refused: {message}" for name, message in outcome.refused.items()]
                said += [f"{name}: {n} replies failed: {why}" for (name, why), n in outcome.errors.items()]
            store.fold()
    finally:
        store.fold()
    return said


async def take_over(
    plan: EvidencePlan, runs: Sequence[Run], target: Target, store: Store, share: float, seed: int
) -> list[recheck.Restamped]:
    """Takes the results of older code over where a random share of an arm's comes out the same."""
    items = unique(run.items for run in runs)
    with progress(f"{runs[0].model}, older results again") as show:
        return await recheck.restamp(
            items, request_arms(runs), store, target, asking(plan, "scores"), share, seed, show
        )


async def again(
    plan: EvidencePlan, runs: Sequence[Run], target: Target, store: Store, tokens: int, seed: int
) -> Quick:
    """Computes a random part of the stored results again, of any code: as many as ``tokens`` buy."""
    pool = list(recheck.stored(unique(run.items for run in runs), request_arms(runs), store, lambda _: None))
    chosen = recheck.within(recheck.choose(pool, 1.0, seed), tokens) if pool else []
    begin = time.monotonic()
    with progress(f"{runs[0].model}, a random part again") as show:
        found = await recheck.recheck(chosen, target, asking(plan, "scores"), show)
    spent = sum(result.spent for _, result in chosen)
    return Quick(len(pool), tuple(found), spent, time.monotonic() - begin)


def take(plan: EvidencePlan, runs: Sequence[Run], source: Store, store: Store) -> int:
    """Copies results that the runs want from another store, as far as they are kept; returns their number."""
    copied = 0
    for run in runs:
        for arm in run.arms.requests.values():
            keep = kept(plan, run, arm)
            for job, result in recheck.stored(run.items, [arm], source, lambda _: None):
                if store.get(arm, job.item, job.sample, result.code) is None:
                    store.add(arm, replace(reduced(result, keep), latency=round(result.latency, 2)))
                    copied += 1
    store.fold()
    return copied


def request_arms(runs: Sequence[Run]) -> list[Arm]:
    """Returns the request arms of some runs, each once."""
    return list({arm.key: arm for run in runs for arm in run.arms.requests.values()}.values())


def unique(groups: Iterator[Sequence[Item]]) -> list[Item]:
    """Returns the items of some groups, each once."""
    return list({item.id: item for group in groups for item in group}.values())


@contextmanager
def progress(title: str, runner: Runner | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that shows how many of how many replies are done, in one line, with the errors."""
    bar = tqdm(desc=title, unit="reply", file=sys.stderr, mininterval=1.0)

    def show(done: int, total: int) -> None:
        if bar.total != total:
            bar.reset(total=total)
        if runner is not None and (runner.outcome.errors or runner.outcome.refused):
            counts = {"errors": runner.outcome.errors.total(), "refused": len(runner.outcome.refused)}
            bar.set_postfix(counts, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()
