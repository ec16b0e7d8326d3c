"""How fast does the engine decode one checkpoint against another? Rounds alternate, so the load cancels.

Each round times the same requests (prompt of the checkpoint's own tokenizer, a fixed number of tokens) on
both, alone and 16 at a time; the ratio is that of the times a token, its interval over rounds.

    python benchmarks/checkpoints.py OLD_DIR NEW_DIR [--rounds 11] [--tokens 128]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from _common import make_engine, prompt_ids, run_all
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.engine import EmbeddedEngine

PROMPT = "Tell me a story about a fox."


async def seconds(engine: EmbeddedEngine, tokens: int, together: int) -> float:
    """The processor time of this process a token."""
    prompts = [prompt_ids(engine, PROMPT)] * together
    sampling = [SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True) for i in range(together)]
    began = time.process_time()
    rows = await run_all(engine, prompts, PolicyConfig(policy="entropix", preset="seed"), sampling)
    return (time.process_time() - began) / sum(len(row) for row in rows)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    engines = [make_engine(args.old), make_engine(args.new)]
    for engine in engines:
        await engine.start()
    print("| requests | old, us of CPU a token | new | new / old, median | lowest | highest |")
    print("|---|---|---|---|---|---|")
    for together in (1, 16):
        for engine in engines:
            await seconds(engine, args.tokens, together)
        times: list[tuple[float, float]] = []
        for _ in range(args.rounds):
            first = await seconds(engines[0], args.tokens, together)
            times.append((first, await seconds(engines[1], args.tokens, together)))
        ratios = [new / old for old, new in times]
        old, new = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
        print(
            f"| {together} | {old:.0f} | {new:.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} | {max(ratios):.2f} |"
        )
    for engine in engines:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
