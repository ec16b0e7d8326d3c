"""Time of forking a sequence: pages are shared, the part page is copied for each branch in one go."""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.cache import CacheShape, KVCache
from entropick_server.engine.pages import PagePool
from entropick_server.engine.scheduler import Scheduler
from entropick_server.engine.sequence import Sequence
from entropick_server.engine.types import Request

PAGE = 16


def fork_seconds(shape: CacheShape, context: int, branches: int, rounds: int) -> list[float]:
    """Seconds of each fork at a context, copies included; the branches are dropped in between."""
    pool = PagePool(shape.pages - 1)
    scheduler = Scheduler(pool, PAGE, branches + 1, 1, context + branches + 2)
    cache = KVCache(shape, torch.device("cpu"))
    request = Request("bench", tuple(range(context)), SamplingParams(), PolicyConfig(), time.monotonic())
    parent = Sequence.of(request, context + 64)
    scheduler.add(parent)
    scheduler.advance(scheduler.schedule())
    parent.take(0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--branches", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--kv-heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    shape = CacheShape(args.layers, args.kv_heads, args.head_dim, PAGE, 128, torch.float32)
    print(f"fork of {args.branches}: {args.layers} layers, {args.kv_heads} heads of {args.head_dim}\n")
    print("| context | median, ms | 90 % below, ms |")
    print("|---|---|---|")
    with torch.inference_mode():
        for context in (512, 520, 1000):
            seconds = sorted(fork_seconds(shape, context, args.branches, args.rounds))
            high = seconds[len(seconds) * 9 // 10]
            print(f"| {context} | {statistics.median(seconds) * 1e3:.3f} | {high * 1e3:.3f} |")


if __name__ == "__main__":
    main()
