"""Measured logits entropy against the grammar's truth, through the engine, at labelled positions.

Replies of the grammar (prompts that calibration never saw) are teacher-forced; at each labelled position the
entropy that a response would report is compared with that of the true conditional distribution. The truth is
taken after tokenisation: alternatives that share their first token are merged.

    python benchmarks/truth.py [--per-kind 80] [--model DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
from collections import defaultdict

from _common import make_engine, prompt_ids, run_all, unseen_examples
from entropick_pico import grammar
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.calibration import token_indices
from entropick_server.engine.embedded.engine import EmbeddedEngine

ENTROPY = SIGNAL_NAMES.index("logits_entropy")


def true_entropy(engine: EmbeddedEngine, before: str, choice: grammar.Choice) -> float:
    """Bits, over the first token of each alternative; the empty alternative ends the turn."""
    first: dict[int, float] = defaultdict(float)
    prefix = engine.tokenizer.encode(before, add_special_tokens=False)
    for text, p in choice.alternatives.items():
        ids = engine.tokenizer.encode(before + text, add_special_tokens=False)
        token = ids[len(prefix)] if text else engine.info.eos_token_ids[0]
        first[token] += p
    return -sum(p * math.log2(p) for p in first.values() if p > 0)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-kind", type=int, default=80)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--model")
    args = parser.parse_args()
    engine = make_engine(args.model)
    await engine.start()
    examples = unseen_examples(args.per_kind, args.seed)
    prompts = [prompt_ids(engine, e.user) for e in examples]
    replies = [engine.tokenizer.encode(e.assistant, add_special_tokens=False) for e in examples]
    replies = [[*r, engine.info.eos_token_ids[0]] for r in replies]
    sampling = [SamplingParams(max_tokens=len(r), ignore_eos=True) for r in replies]
    rows = await run_all(engine, prompts, PolicyConfig(policy="fixed"), sampling, forced=replies)

    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for example, ids, tokens in zip(examples, replies, rows, strict=True):
        for choice in example.choices:
            (index,) = token_indices(ids, example.assistant, [choice.offset], engine.tokenizer)
            measured = tokens[index].signals[ENTROPY]
            if measured is None:
                raise RuntimeError("the engine did not measure logits_entropy")
            truth = true_entropy(engine, example.assistant[: choice.offset], choice)
            errors[choice.kind].append((measured, truth))
    await engine.close()

    print("| label | positions | true entropy, bits | mean absolute error | bias |\n|---|---|---|---|---|")
    for kind, pairs in [*sorted(errors.items()), ("all", [p for v in errors.values() for p in v])]:
        differences = [m - t for m, t in pairs]
        print(
            f"| {kind} | {len(pairs)} | {statistics.fmean(t for _, t in pairs):.3f} | "
            f"{statistics.fmean(map(abs, differences)):.3f} | {statistics.fmean(differences):+.3f} |"
        )


if __name__ == "__main__":
    asyncio.run(main())
