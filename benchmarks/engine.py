"""Decode speed of the embedded engine, all signals on, against transformers ``generate`` on the same weights.

Both run in this process, interleaved, on the same number of threads; a figure is the median over the rounds.
Ratios are of wall time and, for machines that do other things meanwhile, of this process's CPU time.
transformers decodes greedily with its default attention and measures nothing; the engine runs the whole
policy, measures every signal at every token and delivers each token to an asyncio reader.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria

from _common import make_engine
from entropick_sampler.params import PolicyConfig, PresetName, SamplingParams
from entropick_server.engine.threads import default_threads
from entropick_server.engine.torch_engine import TorchEngine
from entropick_server.engine.types import Request


@dataclass(frozen=True, order=True)
class Stamp:
    """Seconds of the wall clock and of this process on all CPUs."""

    wall: float
    cpu: float

    def speed(self, end: Stamp, tokens: int) -> Speed:
        return Speed(tokens / (end.wall - self.wall), tokens / (end.cpu - self.cpu))


@dataclass(frozen=True)
class Speed:
    """Tokens a second of wall time, and a second of CPU time."""

    wall: float
    cpu: float


def now() -> Stamp:
    return Stamp(time.perf_counter(), time.process_time())


class Clock(StoppingCriteria):
    """Notes when each token of ``generate`` is there; never stops."""

    def __init__(self, rows: int) -> None:
        self.times: list[Stamp] = []
        self.never = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.times.append(now())
        return self.never


def with_transformers(model: Any, prompts: list[list[int]], tokens: int) -> Speed:
    """Tokens a second of ``generate`` behind the first token."""
    clock = Clock(len(prompts))
    with torch.inference_mode():
        model.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.int64),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=[clock],
        )
    return clock.times[0].speed(clock.times[-1], len(prompts) * (len(clock.times) - 1))


async def with_engine(
    engine: TorchEngine, prompts: list[list[int]], tokens: int, policy: PolicyConfig
) -> Speed:
    """Tokens a second of the engine, from the moment that every row has its first token."""
    times: list[Stamp] = []

    async def one(i: int, prompt: list[int]) -> Stamp:
        sampling = SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True)
        request = Request(f"bench-{i}", tuple(prompt), sampling, policy, time.monotonic())
        first: Stamp | None = None
        async for output in engine.generate(request):
            if output.error:
                raise RuntimeError(output.error)
            times.append(now())
            first = first or times[-1]
        if first is None:
            raise RuntimeError("no token")
        return first

    begin = max(await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts))))
    return begin.speed(times[-1], sum(t > begin for t in times))


async def compare(args: argparse.Namespace) -> None:
    threads = args.threads or default_threads()
    torch.set_num_threads(threads)
    rows = [int(b) for b in args.batches.split(",")]
    engine = make_engine(args.model, max_num_seqs=max(rows), threads=threads, device="cpu", calibrate=False)
    await engine.start()
    info = engine.info
    model: Any = AutoModelForCausalLM.from_pretrained(info.source, dtype=torch.float32)
    model.eval()
    preset: PresetName = "calibrated" if engine.profile else "seed"
    policy = PolicyConfig(preset=preset, overrides={"clarify_budget": 0})
    generator = torch.Generator().manual_seed(0)
    found: dict[int, list[tuple[Speed, Speed]]] = {}
    for round_ in range(args.rounds + 1):
        for b in rows:
            prompts = torch.randint(0, info.vocab_size, (b, args.prompt), generator=generator).tolist()
            theirs = with_transformers(model, prompts, args.tokens)
            ours = await with_engine(engine, prompts, args.tokens, policy)
            if round_:  # the first round warms both up
                found.setdefault(b, []).append((ours, theirs))
    await engine.close()
    name = Path(info.source).name
    print(
        f"\n{name}: {info.parameters / 1e6:.1f} M parameters, {info.dtype}, {threads} threads, "
        f"preset {preset}, prompt {args.prompt}, {args.tokens} new tokens, median of {args.rounds}\n"
    )
    print("| batch | entropick, tokens/s | transformers, tokens/s | ratio | of CPU time | ratios seen |")
    print("|---|---|---|---|---|---|")
    median = statistics.median
    for b, pairs in found.items():
        wall = sorted(ours.wall / theirs.wall for ours, theirs in pairs)
        cpu = median(ours.cpu / theirs.cpu for ours, theirs in pairs)
        print(
            f"| {b} | {median(o.wall for o, _ in pairs):.0f} | {median(t.wall for _, t in pairs):.0f} "
            f"| {median(wall):.2f} | {cpu:.2f} | {wall[0]:.2f} to {wall[-1]:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder; default: the shipped model")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
