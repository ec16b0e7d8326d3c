"""The same request with the same seed: alone, and among 15 random neighbours.

Counts the sampled requests whose text is the same, and explains every one that is not: at the first token
that differs it prints how far the two runs' signals are apart and how close the request's uniform number is
to a step of the distribution (float64, same prefix). Both of rounding size: rounding at a boundary.

    python benchmarks/determinism.py [--requests 200] [--model DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import random

import torch
from transformers import AutoModelForCausalLM

from _common import make_engine, prompt_ids, run_all, unseen_examples
from entropick_kernels.sample import philox_uniform
from entropick_kernels.sample.reference import filter_probabilities_reference
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.torch_engine import TorchEngine
from entropick_server.engine.types import Token


def boundary_gap(model_dir: str, prefix: list[int], token: Token, seed: int, position: int) -> float:
    """Distance of the request's uniform number to the nearest step of its CDF, in probability."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(torch.tensor([prefix])).logits[0, -1]
    p = torch.softmax(logits / max(token.parameters.temperature, 1e-9), -1).numpy()
    kept = filter_probabilities_reference(
        p, token.parameters.top_k, token.parameters.top_p, token.parameters.min_p
    )
    cdf = torch.as_tensor(kept).cumsum(-1)
    u = philox_uniform(*(torch.tensor(x) for x in (seed, position, 0, 0)))
    return float((cdf - u).abs().min())


def explain(engine: TorchEngine, prompt: list[int], a: list[Token], b: list[Token], seed: int) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.token_id != y.token_id), -1)
    if at < 0:
        return "one is a prefix of the other"
    x, y = a[at], b[at]
    apart = max(
        abs(s - t) for s, t in zip(x.signals, y.signals, strict=True) if s is not None and t is not None
    )
    gap = boundary_gap(engine.info.source, [*prompt, *(t.token_id for t in a[:at])], x, seed, at)
    return (
        f"token {at}: {x.token_id} / {y.token_id}, strategy {x.strategy} / {y.strategy}, "
        f"signals at most {apart:.1e} apart (surprisal included), uniform {gap:.1e} from a step of the CDF"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--model")
    args = parser.parse_args()
    engine = make_engine(args.model)
    await engine.start()
    rng = random.Random(args.seed)
    examples = unseen_examples(args.requests // 20 + 1, args.seed)
    rng.shuffle(examples)
    examples = examples[: args.requests]
    prompts = [prompt_ids(engine, e.user) for e in examples]
    for policy in (
        PolicyConfig(policy="fixed"),
        PolicyConfig(preset="calibrated"),
        PolicyConfig(preset="seed"),
    ):
        sampling = [SamplingParams(seed=rng.getrandbits(62), max_tokens=args.max_tokens) for _ in examples]
        alone = await run_all(engine, prompts, policy, sampling, concurrency=1)
        batched = await run_all(engine, prompts, policy, sampling, concurrency=16)
        different = [
            i
            for i, (a, b) in enumerate(zip(alone, batched, strict=True))
            if [t.token_id for t in a] != [t.token_id for t in b]
        ]
        worst = max(
            (abs(s - t) / (1e-5 + 1e-4 * abs(s)) if s is not None and t is not None else 0.0)
            for i, (a, b) in enumerate(zip(alone, batched, strict=True))
            if i not in different
            for x, y in zip(a, b, strict=True)
            for s, t in zip(x.signals, y.signals, strict=True)
        )
        name = f"{policy.policy}/{policy.preset}" if policy.policy == "entropix" else policy.policy
        same = len(examples) - len(different)
        print(
            f"{name}: {same} of {len(examples)} texts are the same; largest difference of a signal: ", end=""
        )
        print(f"{worst:.3f} of the tolerance (1e-4 relative + 1e-5)")
        for i in different:
            print("   ", explain(engine, prompts[i], alone[i], batched[i], sampling[i].seed))
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
