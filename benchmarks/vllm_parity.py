"""Do both engines say and measure the same? The embedded engine and vLLM on the shipped model, in float32.

Run in vLLM's environment (``make bench-vllm``; docs/vllm.md). Prints one line for each claim; exits with 1
where a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# vLLM starts its processes by importing this file again, with this path. What brings numba must not be
# imported there early, so it is imported where it is used; and our kernels.py must not pass for the package
# of that name, which transformers looks for
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]


def widest(a: Sequence[Any], b: Sequence[Any], signal: int) -> float:
    """The largest difference of a signal over two lists of answers."""
    pairs = [(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)]
    if any(y.signals[signal] is None for _, y in pairs):
        return float("inf")  # not measured is not equal
    return max(abs(x.signals[signal] - y.signals[signal]) for x, y in pairs)


def ids(answer: Sequence[Any]) -> list[int]:
    return [token.token_id for token in answer]


async def main(count: int) -> int:
    sys.path.insert(0, str(HERE))
    from _common import make_engine, prompt_ids, run_all, unseen_examples

    sys.path.remove(str(HERE))
    from entropick_pico import grammar, model_path
    from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams
    from entropick_sampler.signals import STEP_SIGNALS
    from entropick_sampler.strategy import Strategy
    from entropick_server.engine.types import EngineOptions
    from entropick_server.engine.vllm.engine import VllmEngine

    options = EngineOptions(model=str(model_path()))
    ours = make_engine()
    theirs = VllmEngine(options, ("--distributed-executor-backend", "uni"))
    await ours.start()
    await theirs.start()
    missed = 0

    def claim(text: str, value: float, bound: float, *, least: bool = False) -> None:
        nonlocal missed
        kept = value >= bound if least else value <= bound
        missed += not kept
        print(f"{'ok  ' if kept else 'MISS'} {text}: {value:.6g} ({'>=' if least else '<='} {bound:g})")

    examples = unseen_examples(-(-count // len(grammar.KINDS)), seed=20)[:count]
    prompts = [prompt_ids(ours, example.user) for example in examples]

    async def both(policy: PolicyConfig, base: SamplingParams, forced: Any = None) -> tuple[Any, Any]:
        sampling = [replace(base, seed=i) for i in range(len(prompts))]
        a = await run_all(ours, prompts, policy, sampling, forced)
        b = await run_all(theirs, prompts, policy, sampling, forced)  # type: ignore[arg-type]
        return a, b

    try:
        a, b = await both(PolicyConfig("fixed"), SamplingParams(temperature=0.0, max_tokens=64))
        same = sum(ids(x) == ids(y) for x, y in zip(a, b, strict=True))
        print(f"{len(prompts)} prompts, greedy: {sum(map(len, a))} tokens")
        claim("greedy: texts alike", same, len(prompts), least=True)

        forced = [
            (
                *ours.tokenizer.encode(example.assistant, add_special_tokens=False),
                *ours.info.eos_token_ids[:1],
            )
            for example in examples
        ]
        a, b = await both(PolicyConfig("entropix", "calibrated"), SamplingParams(max_tokens=64), forced)
        print(f"{len(forced)} teacher-forced texts: {sum(map(len, a))} tokens")
        for index, name in enumerate(s.name for s in STEP_SIGNALS):
            claim(f"forced: {name}, largest difference", widest(a, b, index), 1e-3)
        pairs = [(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)]
        agree = sum(x.strategy == y.strategy for x, y in pairs) / len(pairs)
        claim("forced: share of tokens with the same strategy", agree, 0.99, least=True)
        print("     strategies:", {s.label: sum(x.strategy is s for x, _ in pairs) for s in Strategy})

        sampled = SamplingParams(SEVERAL_TEMPERATURE, max_tokens=32, ignore_eos=True)
        for name, policy, base in (
            ("calibrated", PolicyConfig("entropix", "calibrated"), sampled),
            ("seed", PolicyConfig("entropix", "seed"), sampled),
            ("fixed, temperature 1", PolicyConfig("fixed"), replace(sampled, temperature=1.0)),
        ):
            a, b = await both(policy, base)
            same = sum(ids(x) == ids(y) for x, y in zip(a, b, strict=True))
            claim(f"seeded, {name}: texts of 32 tokens alike", same, 0.95 * len(prompts), least=True)
    finally:
        await theirs.close()
        await ours.close()
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    sys.exit(asyncio.run(main(parser.parse_args().prompts)))
