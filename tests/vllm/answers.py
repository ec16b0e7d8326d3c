"""Run as a script: the vLLM engine of this environment answers requests; rows as JSON on the last line.

``answers.py KERNELS LAYERS [vLLM's arguments]``; vLLM's settings are in the environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

PROMPTS = ((1, 20, 30, 40, 50), (1, *range(20, 90)), (1, 400, 20))
TOKENS = 9
"""enough for a G"""


def options(kernels: str, layers: str) -> Any:
    """How an engine is built: ``layers`` as in "2,3", "" for all, which the shipped profile belongs to."""
    from entropick_pico import model_path
    from entropick_server.engine.types import EngineOptions

    chosen = tuple(map(int, layers.split(","))) if layers else None
    return EngineOptions(
        model=str(model_path()),
        kernels=kernels,  # type: ignore[arg-type]
        monitored_layers=chosen,
        use_profile=not layers,
        calibrate=not layers,
    )


def plain(token: Any) -> dict[str, Any]:
    """What a test compares of a token."""
    return {"id": token.token_id, "signals": token.signals, "strategy": int(token.strategy)}


async def answer(engine: Any) -> list[list[dict[str, Any]]]:
    """All prompts at once, each with a seed of its own; by the profile where there is one.

    All but the first want token costs."""
    # imported here: vLLM starts its workers by importing this file again, and on a CPU fails where numba is
    from time import monotonic

    from entropick_sampler.params import PolicyConfig, SamplingParams
    from entropick_server.engine.types import Request

    async def one(number: int, prompt: tuple[int, ...]) -> list[dict[str, Any]]:
        sampling = SamplingParams(seed=number, max_tokens=TOKENS, ignore_eos=True)
        preset = "calibrated" if engine.profile else "seed"
        policy = PolicyConfig(preset=preset, genuineness="seed" if number else "scores")
        request = Request(f"r{number}", prompt, sampling, policy, monotonic())
        return [plain(token) async for output in engine.generate(request) for token in output.tokens]

    return list(await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(PROMPTS))))


async def main(kernels: str, layers: str, arguments: list[str]) -> None:
    from entropick_server.engine.vllm.engine import VllmEngine

    # prefill chunks of the long prompt beside rows that decode already
    engine = VllmEngine(options(kernels, layers), ("--max-num-batched-tokens", "40", *arguments))
    await engine.start()
    try:
        rows = await answer(engine)
    finally:
        await engine.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
