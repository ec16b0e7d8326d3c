"""Decode speed of the embedded engine, all signals on, against transformers ``generate`` on the same weights.

Both run in this process, interleaved, on the same number of threads; a figure is the median over the rounds.
transformers decodes greedily with its default attention and measures nothing; the engine runs the whole
policy, measures every signal at every token and delivers each token to an asyncio reader.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria

from _common import make_engine
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.threads import default_threads
from entropick_server.engine.torch_engine import TorchEngine
from entropick_server.engine.types import Request


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each token of ``generate`` is there; never stops."""

    def __init__(self, rows: int) -> None:
        self.times: list[float] = []
        self.never = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return self.never


def with_transformers(model: Any, prompts: list[list[int]], tokens: int) -> float:
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
    return len(prompts) * (len(clock.times) - 1) / (clock.times[-1] - clock.times[0])


async def with_engine(
    engine: TorchEngine, prompts: list[list[int]], tokens: int, policy: PolicyConfig
) -> float:
    """Tokens a second of the engine, from the moment that every row has its first token."""
    times: list[float] = []

    async def one(i: int, prompt: list[int]) -> float:
        sampling = SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True)
        request = Request(f"bench-{i}", tuple(prompt), sampling, policy, time.monotonic())
        first = 0.0
        async for output in engine.generate(request):
            if output.error:
                raise RuntimeError(output.error)
            now = time.perf_counter()
            first = first or now
            times.append(now)
        return first

    begin = max(await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts))))
    return sum(t > begin for t in times) / (times[-1] - begin)


async def compare(args: argparse.Namespace) -> None:
    threads = args.threads or default_threads()
    torch.set_num_threads(threads)
    rows = [int(b) for b in args.batches.split(",")]
    engine = make_engine(args.model, max_num_seqs=max(rows), threads=threads, device="cpu", calibrate=False)
    await engine.start()
    info = engine.info
    model = AutoModelForCausalLM.from_pretrained(args.model or engine.info.source, dtype=torch.float32).eval()
    preset = "calibrated" if engine.profile else "seed"
    policy = PolicyConfig(preset=preset, overrides={"clarify_budget": 0})
    generator = torch.Generator().manual_seed(0)
    found: dict[tuple[int, str], list[float]] = {}
    for round_ in range(args.rounds + 1):
        for b in rows:
            prompts = torch.randint(0, info.vocab_size, (b, args.prompt), generator=generator).tolist()
            theirs = with_transformers(model, prompts, args.tokens)
            ours = await with_engine(engine, prompts, args.tokens, policy)
            if round_:  # the first round warms both up
                found.setdefault((b, "theirs"), []).append(theirs)
                found.setdefault((b, "ours"), []).append(ours)
    await engine.close()
    name = Path(info.source).name
    print(
        f"\n{name}: {info.parameters / 1e6:.1f} M parameters, {info.dtype}, {threads} threads, "
        f"preset {preset}, prompt {args.prompt}, {args.tokens} new tokens, median of {args.rounds}\n"
    )
    print("| batch | entropick, tokens/s | transformers generate, tokens/s | ratio | ratios seen |")
    print("|---|---|---|---|---|")
    for b in rows:
        ours_, theirs_ = found[b, "ours"], found[b, "theirs"]
        ratios = sorted(o / t for o, t in zip(ours_, theirs_, strict=True))
        print(
            f"| {b} | {statistics.median(ours_):.0f} | {statistics.median(theirs_):.0f} "
            f"| {statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
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
