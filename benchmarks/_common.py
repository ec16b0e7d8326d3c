"""Shared by the benchmarks: an engine in this process, prompts from the grammar, intervals."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from entropick_pico import grammar, model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, Request, Token


def make_engine(model: str | None = None, **options: object) -> EmbeddedEngine:
    return EmbeddedEngine(replace(EngineOptions(model=model or str(model_path())), **options))  # type: ignore[arg-type]


async def run_all(
    engine: EmbeddedEngine,
    prompts: Sequence[Sequence[int]],
    policy: PolicyConfig,
    sampling: Sequence[SamplingParams],
    forced: Sequence[Sequence[int]] | None = None,
    concurrency: int = 16,
) -> list[list[Token]]:
    """The tokens of every prompt, in order; at most ``concurrency`` at a time."""
    gate = asyncio.Semaphore(concurrency)

    async def one(i: int) -> list[Token]:
        async with gate:
            ends = () if sampling[i].ignore_eos else engine.info.eos_token_ids
            request = Request(
                f"bench-{i}",
                tuple(prompts[i]),
                replace(sampling[i], stop_token_ids=ends),
                policy,
                time.monotonic(),
                replayed_token_ids=tuple(forced[i]) if forced else (),
            )
            tokens: list[Token] = []
            async for output in engine.generate(request):
                if output.error:
                    raise RuntimeError(output.error)
                tokens.extend(output.tokens)
            return tokens

    return list(await asyncio.gather(*(one(i) for i in range(len(prompts)))))


def unseen_examples(per_kind: int, seed: int, kinds: Sequence[str] | None = None) -> list[grammar.Example]:
    """Examples whose prompts calibration never saw, ``per_kind`` of each kind, distinct where possible."""
    rng = random.Random(seed)
    chosen = []
    for kind in kinds or grammar.KINDS:
        seen: set[str] = set()
        for _ in range(per_kind):
            for _ in range(50):
                example = grammar.sample(rng, kind, "check")
                if example.user not in seen:
                    break
            seen.add(example.user)
            chosen.append(example)
    return chosen


def prompt_ids(engine: EmbeddedEngine, user: str) -> list[int]:
    return engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True
    )


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(a: int, n: int, b: int, m: int, z: float = 1.96) -> tuple[float, float, float]:
    """(a/n) / (b/m) with Katz's log interval; half a hit is added to both sides where one has none."""
    if a == 0 or b == 0:
        a_, n_, b_, m_ = a + 0.5, n + 0.5, b + 0.5, m + 0.5
    else:
        a_, n_, b_, m_ = float(a), float(n), float(b), float(m)
    ratio = (a_ / n_) / (b_ / m_)
    spread = z * math.sqrt(max(0.0, 1 / a_ - 1 / n_ + 1 / b_ - 1 / m_))
    return ratio, ratio * math.exp(-spread), ratio * math.exp(spread)
