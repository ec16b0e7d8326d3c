"""What the processor and the attention statistics cost vLLM's decoding, as ratios within one run.

Ways to decode the shipped model, in turn: vLLM alone, without anything of ours, with seeded draws at
temperature 1 (what the others are compared with) and greedy; with our processor, without attention, with
attention on 2 layers, and on all. Every engine is started once; rounds alternate between them, and the median
of the rounds' ratios counts. Run in vLLM's environment (docs/vllm.md).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# as in vllm_parity.py: vLLM's processes import this file again
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

ALONE = ("vLLM, seeded", "vLLM, greedy")
WAYS = {"processor": (), "2 layers": (0, 3), "all layers": (0, 1, 2, 3)}
UNI = ("--distributed-executor-backend", "uni")


async def decode(engine: Any, way: str, prompt: list[int], requests: int, tokens: int, tag: str) -> float:
    """Tokens a second of ``requests`` that run together."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from entropick_sampler.params import PolicyConfig
    from entropick_sampler.params import SamplingParams as Sampling
    from entropick_server.engine.types import Request

    async def one(i: int) -> None:
        name = f"{tag}-{i}"
        if way in WAYS:
            request = Request(
                name,
                tuple(prompt),
                Sampling(seed=i, max_tokens=tokens, ignore_eos=True),
                PolicyConfig("entropix", "seed", {"n_candidates": 1}),
                time.monotonic(),
            )
            count = 0
            async for output in engine.generate(request):
                count += len(output.tokens)
                if any(token.parameters is None for token in output.tokens):
                    raise RuntimeError("figures were lost")
        else:
            params = SamplingParams(
                temperature=0.0 if way == "vLLM, greedy" else 1.0,
                seed=i,
                max_tokens=tokens,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            count = 0
            async for output in engine.generate({"prompt_token_ids": prompt}, params, name):
                count += len(output.outputs[0].token_ids)
        if count != tokens:
            raise RuntimeError(f"{count} tokens instead of {tokens}")

    begin = time.perf_counter()
    await asyncio.gather(*(one(i) for i in range(requests)))
    return requests * tokens / (time.perf_counter() - begin)


async def main(rounds: int, tokens: int) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from entropick_pico import model_path
    from entropick_server.engine.types import EngineOptions
    from entropick_server.engine.vllm.engine import VllmEngine

    async with AsyncExitStack() as stack:
        alone = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(model_path()),
                dtype="float32",
                enforce_eager=True,
                max_num_seqs=16,
                distributed_executor_backend="uni",
                disable_log_stats=True,
            )
        )
        stack.callback(alone.shutdown)
        engines: dict[str, Any] = dict.fromkeys(ALONE, alone)
        prompt: list[int] = []
        for way, layers in WAYS.items():
            options = EngineOptions(
                model=str(model_path()), monitored_layers=layers, use_profile=False, calibrate=False
            )
            engines[way] = engine = VllmEngine(options, UNI)
            await engine.start()
            stack.push_async_callback(engine.close)
            prompt = engine.tokenizer.apply_chat_template(
                [{"role": "user", "content": "Tell me a story about a fox."}], add_generation_prompt=True
            )
        for requests in (1, 16):
            rates: dict[str, list[float]] = {way: [] for way in engines}
            for number in range(rounds + 1):
                for way, engine in engines.items():
                    rate = await decode(engine, way, prompt, requests, tokens, f"{requests}-{number}-{way}")
                    if number:  # the first warms up
                        rates[way].append(rate)
            base = rates[ALONE[0]]
            for way, found in rates.items():
                ratios = [b / a for a, b in zip(found, base, strict=True)]
                rate = statistics.median(found)
                print(
                    f"{requests:2} requests, {way:12}: {rate:7.1f} tokens/s, "
                    f"{requests / rate * 1000:5.2f} ms a step, "
                    f"{(statistics.median(ratios) - 1) * 100:+5.1f} % "
                    f"(rounds {(min(ratios) - 1) * 100:+.1f} to {(max(ratios) - 1) * 100:+.1f})",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.tokens))
