"""Asks the plan's questions through the package its-hub before our server: ``python -m evidence.gateway``.

One question at a time, so that the time to the answer is that of an idle server, and every token that the
server generated for it is counted: the server's own counter is read before and after, which also holds the
tokens of replies that its_hub cancelled. Our own consensus is asked for in the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx

from entropick_eval.replies import Reply
from entropick_eval.runner import Job, request_body, seed_of, to_result
from entropick_eval.store import Store
from entropick_eval.targets import Target, TargetError, at_url

from . import peer
from .compute import asking, claim, open_store, progress, request_arms
from .llama import HOST, serving
from .plan import EvidencePlan, PlanError, Run, read_plan

NAME: Final = "its_hub"
OF: Final = "sampling"
"""the arm whose replies its_hub draws"""
_COUNTER: Final = re.compile(r"^entropick_generation_tokens_total(?:\{[^}]*\})? (\S+)$", re.M)


def options() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    made = peer.parser("python -m evidence.gateway", __doc__)
    add = made.add_argument
    add("--python", type=Path, required=True, help="the interpreter of its_hub's environment")
    add("--serve", default="smollm2", help="the MODEL of `entropick serve` (smollm2)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C."""
    return peer.run(options(), _run, argv)


async def _run(args: argparse.Namespace) -> int:
    plan = read_plan(args.plan)
    runs = peer.limited_runs(plan, NAME, args.limit)
    if not args.python.is_file():
        raise FileNotFoundError(f"--python: there is no file {args.python}; `make evidence-its-hub` makes it")
    line = [sys.executable, "-m", "entropick_server.cli", "serve", args.serve, "--batch-invariant"]
    line += ["--max-num-seqs", str(plan.server["max_num_seqs"]), "--log-level", "warning", "--host", HOST]
    with serving([*line, "--port"]) as url, driver(args.python) as process:
        async with at_url(url, None) as target:
            claim(args.results, NAME, target.identity.model, target.identity.name, False)
            store = open_store(args.results, NAME, request_arms(runs))
            await ask_all(plan, runs, target, store, url, process)
    return 0


@contextmanager
def driver(python: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the program of its_hub's environment, which reads questions and writes answers."""
    folder = Path(__file__).resolve().parent
    root = folder.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root / "server")}
    process = subprocess.Popen(
        [str(python), str(folder / "its_hub_driver.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


async def ask_all(
    plan: EvidencePlan,
    runs: Sequence[Run],
    target: Target,
    store: Store,
    url: str,
    process: subprocess.Popen[str],
) -> None:
    """Computes the missing answers of some runs, one at a time."""
    jobs = [
        Job(arm, item, 0)
        for run in runs
        for item in run.items
        for arm in run.arms.requests.values()
        if store.get(arm, item, 0, None) is None
    ]
    try:
        async with httpx.AsyncClient() as client:
            with progress(f"{NAME}, one question at a time") as show:
                show(0, len(jobs))
                for done, job in enumerate(jobs, 1):
                    before = await generated(client, url)
                    begin = time.monotonic()
                    if NAME in job.arm.body:
                        asked = question(plan, job, url)
                        reply = await asyncio.to_thread(through, process, asked)
                    else:
                        body = request_body(job, asking(plan, "none"), True)
                        reply = await target.ask(body)
                    seconds = time.monotonic() - begin
                    spent = await settled(client, url) - before
                    code = target.identity.code_of(False)
                    reply = replace(reply, spent=spent)
                    store.add(job.arm, to_result(job, reply, code, seconds, "none"))
                    show(done, len(jobs))
    finally:
        store.fold()


def question(plan: EvidencePlan, job: Job, url: str) -> dict[str, Any]:
    """Returns an item as the driver asks it: the body of the arm of replies, a seed for each reply."""
    of = next(model.arms.requests[OF] for model in plan.models.values() if OF in model.arms.requests)
    fields: Mapping[str, Any] = job.arm.body[NAME]
    options = {name: value for name, value in fields.items() if name not in ("algorithm", "budget")}
    budget = int(fields["budget"])
    body = request_body(Job(of, job.item, 0), asking(plan, "none"), True)
    if job.item.check is None:
        raise PlanError(f"{job.item.id}: an open prompt has no answer to vote on")
    return {
        "url": url,
        "body": body,
        "seeds": [seed_of(job.item, of, number) for number in range(budget)],
        "algorithm": fields["algorithm"],
        "options": options,
        "budget": budget,
        "extract": job.item.check.extract,
    }


def through(process: subprocess.Popen[str], asked: Mapping[str, Any]) -> Reply:
    """Returns the driver's answer to a question. Raises TargetError where the driver ended."""
    if process.stdin is None or process.stdout is None:
        raise TargetError("the driver of its_hub has no pipes")
    try:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise TargetError("the driver of its_hub ended; its own words are above")
    found = json.loads(line)
    return Reply(found["text"], found["finish"], found["tokens"], found["completed"], {}, None)


async def generated(client: httpx.AsyncClient, url: str) -> int:
    """Returns the number of tokens that the server has generated since it started."""
    text = (await client.get(f"{url}/metrics")).text
    return sum(int(float(value)) for value in _COUNTER.findall(text))


async def settled(client: httpx.AsyncClient, url: str) -> int:
    """Returns the same number once it stands still: a cancelled reply ends with the step that it is in."""
    last = await generated(client, url)
    while True:
        await asyncio.sleep(0.05)
        now = await generated(client, url)
        if now == last:
            return now
        last = now


if __name__ == "__main__":
    raise SystemExit(main())
