"""Run as a script: the vLLM engine of this environment answers requests; rows as JSON on the last line.

``answers.py LAYERS [vLLM's arguments]``; requests and vLLM's settings come from the test that starts it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

PROMPTS = ((1, 20, 30, 40, 50), (1, *range(20, 180)), (1, 400, 20))
TOKENS = 8


def plain(token: Any) -> dict[str, Any]:
    """What a test compares of a token."""
    return {"id": token.token_id, "signals": token.signals, "strategy": int(token.strategy)}


async def answer(engine: Any) -> list[list[dict[str, Any]]]:
    """All prompts at once, each under the preset ``calibrated`` with a seed of its own."""
    # imported here: vLLM starts its workers by importing this file again, and on a CPU fails where numba is
    from time import monotonic

    from entropick_sampler.params import PolicyConfig, SamplingParams
    from entropick_server.engine.types import Request

    async def one(number: int, prompt: tuple[int, ...]) -> list[dict[str, Any]]:
        sampling = SamplingParams(seed=number, max_tokens=TOKENS, ignore_eos=True)
        request = Request(f"r{number}", prompt, sampling, PolicyConfig(preset="calibrated"), monotonic())
        return [plain(token) async for output in engine.generate(request) for token in output.tokens]

    return list(await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(PROMPTS))))


async def main(kernels: str, arguments: list[str]) -> None:
    from entropick_pico import model_path
    from entropick_server.engine.types import EngineOptions
    from entropick_server.engine.vllm.engine import VllmEngine

    # pieces of the long prompt beside rows that decode already
    options = EngineOptions(model=str(model_path()), kernels=kernels)  # type: ignore[arg-type]
    engine = VllmEngine(options, ("--max-num-batched-tokens", "64", *arguments))
    await engine.start()
    try:
        rows = await answer(engine)
    finally:
        await engine.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
