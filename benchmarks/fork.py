"""What branches cost the engine: the fork itself, and a step with branches against a step with one row.

``fork``: blocks are shared, the part block is copied for each branch in one go. ``step``: a request whose
branches open again as soon as they may, against the same request without branches, both with the whole
policy; the time that the engine reports for a step, where all branches ran and where one row did.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import torch

from _common import make_engine, run_all
from entropick_sampler.branch_config import BRANCH_STRATEGIES, BranchConfig
from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams
from entropick_sampler.strategy import Strategy
from entropick_server.engine.embedded.block_pool import BlockPool
from entropick_server.engine.embedded.cache import CacheShape, KVCache
from entropick_server.engine.embedded.scheduler import Scheduler
from entropick_server.engine.embedded.sequence import Sequence
from entropick_server.engine.types import Request, StepReport

BLOCK = 16


def fork_seconds(shape: CacheShape, context: int, branches: int, rounds: int) -> list[float]:
    """Seconds of each fork at a context, copies included; the branches are dropped in between."""
    pool = BlockPool(shape.blocks - 1)
    scheduler = Scheduler(pool, BLOCK, branches + 1, context + branches + 2)
    cache = KVCache(shape, torch.device("cpu"))
    request = Request("bench", tuple(range(context)), SamplingParams(), PolicyConfig(), time.monotonic())
    parent = Sequence.of(request, context + 64)
    scheduler.add(parent)
    scheduler.advance(scheduler.schedule())
    parent.tokens.append(0)
    parent.reply.length += 1
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        made, tail = scheduler.fork(parent, branches)
        if tail is not None:
            cache.copy(tail.source, tail.targets)
        seconds.append(time.perf_counter() - begin)
        for branch in made:
            scheduler.finish(branch)
    return seconds


async def step_seconds(
    model: str | None, width: int, depth: int, rounds: int
) -> dict[int, list[list[float]]]:
    """Rows of a step (1, ``width``) -> seconds of its steps, a list a round; rounds alternate."""
    engine = make_engine(model, device="cpu", max_num_seqs=max(16, width))
    await engine.start()
    running = [0]
    seconds: list[float] = []
    rows = 1

    def on_report(report: StepReport) -> None:
        # the load is that after the step: only between two equal ones is it what ran
        if report.duration and report.gauges.running == running[0] == rows:
            seconds.append(report.duration)
        running[0] = report.gauges.running

    engine.subscribe(on_report)
    always = frozenset(Strategy[name.upper()] for name in BRANCH_STRATEGIES)
    branch = BranchConfig(width=width, depth=depth, budget=16.0, on=always)
    vocabulary = engine.tokenizer.size
    found: dict[int, list[list[float]]] = {1: [], width: []}
    for turn in range(rounds + 1):
        generator = torch.Generator().manual_seed(turn)
        prompt = torch.randint(260, vocabulary, (32,), generator=generator).tolist()
        for rows, branching in ((1, None), (width, branch)):
            policy = PolicyConfig(overrides={"clarify_budget": 0}, branch=branching)
            seconds.clear()
            sampling = SamplingParams(SEVERAL_TEMPERATURE, seed=turn, max_tokens=20 * depth, ignore_eos=True)
            await run_all(engine, [prompt], policy, [sampling])
            if turn:  # the first round warms up
                found[rows].append(list(seconds))
    await engine.close()
    return found


def print_steps(found: dict[int, list[list[float]]], width: int, depth: int) -> None:
    one, many = ([statistics.median(round_) for round_ in found[rows]] for rows in (1, width))
    ratios = [b / a for a, b in zip(one, many, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(f"\n{width} branches x {depth} tokens: a step against a step of one row, {len(ratios)} pairs\n")
    print("| one row, ms | branches, ms | ratio | quartiles | seen |")
    print("|---|---|---|---|---|")
    print(
        f"| {statistics.median(one) * 1e3:.3f} | {statistics.median(many) * 1e3:.3f} | {middle:.2f} "
        f"| {low:.2f} to {high:.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--branches", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--kv-heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--depth", type=int, default=12, help="tokens of a branch")
    parser.add_argument("--pairs", type=int, default=20, help="requests without and with branches")
    parser.add_argument("--model", help="for the steps: a model folder; default: the shipped model")
    args = parser.parse_args()
    shape = CacheShape(args.layers, args.kv_heads, args.head_dim, BLOCK, 128, torch.float32)
    print(f"fork of {args.branches}: {args.layers} layers, {args.kv_heads} heads of {args.head_dim}\n")
    print("| context | median, ms | 90 % below, ms |")
    print("|---|---|---|")
    with torch.inference_mode():
        for context in (512, 520, 1000):
            seconds = sorted(fork_seconds(shape, context, args.branches, args.rounds))
            high = seconds[len(seconds) * 9 // 10]
            print(f"| {context} | {statistics.median(seconds) * 1e3:.3f} | {high * 1e3:.3f} |")
    found = asyncio.run(step_seconds(args.model, args.branches, args.depth, args.pairs))
    print_steps(found, args.branches, args.depth)


if __name__ == "__main__":
    main()
