"""Which signals tell an ambiguous question from a random choice that looks like it.

Measures the first token of replies (teacher-forced) to ambiguous questions and to other prompts, fits the
linear discriminant of calibration on the calibration half with some of the signals only, and counts on the
check half which tokens of CLARIFY's corner pass.

    python benchmarks/clarify.py [--labelled 400] [--model DIR]

With --prompts it serves labelled prompts that calibration never saw, a JSON line each, under the model's
profile instead, and counts the replies that begin with CLARIFY, and the later tokens at which it fires:

    python benchmarks/clarify.py --model smollm2 \\
      --prompts server/entropick_server/profiles/smollm2/unseen.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from _common import make_engine, prompt_ids, run_all
from entropick_pico import grammar
from entropick_sampler.calibrate import separate
from entropick_sampler.calibrate_opening import KINDS
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.strategy import Strategy
from entropick_server.calibration import Sample, collect, measure, read_samples
from entropick_server.engine.embedded.engine import EmbeddedEngine

SETS = {
    "entropy and varentropy": ("logits_entropy", "logits_varentropy"),
    "attention": tuple(s.name for s in POLICY_SIGNALS if s.group == "attention"),
    "all": tuple(s.name for s in POLICY_SIGNALS),
}


async def tokens_of(
    engine: EmbeddedEngine, split: grammar.Split, seed: int, labelled: int
) -> tuple[torch.Tensor, list[str]]:
    """Signals [N, S] of the first labelled choice of each reply, and its kind of prompt."""
    rng = random.Random(seed)
    kinds = ["ambiguous", "word"] * labelled + [k for k in grammar.KINDS if k != "clarified"] * 15
    samples, at = [], []
    for kind in kinds:
        example = grammar.sample(rng, kind, split)
        before = example.assistant[: example.choices[0].offset] if example.choices else ""
        reply = engine.tokenizer.encode(example.assistant, add_special_tokens=False)
        samples.append(Sample(tuple(prompt_ids(engine, example.user)), tuple(reply)))
        at.append(len(engine.tokenizer.encode(before, add_special_tokens=False)))
    rows = await measure(engine, samples, 16)
    first = [[tokens[i]] for tokens, i in zip(rows, at, strict=True)]
    return collect(samples, first).values, kinds


def share(fires: Sequence[bool], groups: Sequence[str]) -> str:
    """A share with its 95 % interval: 2,000 resamplings of whole groups, because their prompts are alike."""
    names = sorted(set(groups))
    hits = np.array([sum(f for f, g in zip(fires, groups, strict=True) if g == name) for name in names])
    counts = np.array([sum(g == name for g in groups) for name in names])
    drawn = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    low, high = np.quantile(hits[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return f"{np.mean(fires):.1%} ({low:.1%} to {high:.1%})"


async def served(engine: EmbeddedEngine, path: Path, tokens: int) -> None:
    """Prints how often CLARIFY begins the replies to labelled prompts, and fires behind their first token."""
    info = engine.info
    samples = read_samples(path, engine.tokenizer, info.eos_token_ids, info.max_model_len)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    form = ["text" if "prompt" in r else "system" if len(r["messages"]) % 2 == 0 else "plain" for r in rows]
    once = [SamplingParams(seed=i, max_tokens=1) for i in range(len(samples))]
    first = await run_all(engine, [s.prompt for s in samples], PolicyConfig(), once)
    fires = [reply[0].strategy is Strategy.CLARIFY for reply in first]
    groups, templates = len({s.group for s in samples}), len({r["template"] for r in rows})
    print(f"{path.name}: {len(samples)} prompts of {templates} templates in {groups} groups")
    print("| prompts | n | CLARIFY, 95 % interval by group |")
    print("|---|---|---|")
    for kind in KINDS:
        for only in (None, "plain", "system", "text"):
            at = [i for i, s in enumerate(samples) if s.kind == kind and only in (None, form[i])]
            if at:
                counted = share([fires[i] for i in at], [samples[i].group for i in at])
                print(f"| {kind}{f', {only}' if only else ''} | {len(at)} | {counted} |")
    asked = [s.prompt for s in samples if s.kind == "other"][::4]
    some = [SamplingParams(seed=i, max_tokens=tokens) for i in range(len(asked))]
    replies = await run_all(engine, asked, PolicyConfig(overrides={"clarify_budget": 16}), some)
    later = [
        token.strategy is Strategy.CLARIFY for reply in replies for token in reply[1:] if not token.forced
    ]
    print(f"Later tokens of {len(asked)} replies to other prompts: {sum(later)} of {len(later)} CLARIFY")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labelled", type=int, default=400)
    parser.add_argument("--model")
    parser.add_argument("--profile", help="a profile to use instead of the model's own")
    parser.add_argument("--prompts", type=Path, metavar="FILE")
    parser.add_argument(
        "--tokens", type=int, default=48, help="of each reply in which later tokens are counted"
    )
    args = parser.parse_args()
    engine = make_engine(args.model, profile=args.profile)
    await engine.start()
    if engine.profile is None:
        raise SystemExit("this model has no profile, so no corner to look at")
    if args.prompts is not None:
        await served(engine, args.prompts, args.tokens)
        return await engine.close()
    cuts = engine.profile.thresholds
    fitted, fitted_kinds = await tokens_of(engine, "calibration", 1, args.labelled)
    checked, checked_kinds = await tokens_of(engine, "check", 2, args.labelled)
    await engine.close()

    def corner(values: torch.Tensor) -> torch.Tensor:
        return (values[:, 0] > cuts["clarify_entropy"]) & (values[:, 1] < cuts["clarify_varentropy"])

    def of(kinds: list[str], kind: str) -> torch.Tensor:
        return torch.tensor([k == kind for k in kinds])

    names = [s.name for s in POLICY_SIGNALS]
    inside = corner(fitted)
    unclear, alike = of(checked_kinds, "ambiguous"), of(checked_kinds, "word")
    groups = {"ambiguous": unclear, "look-alike (word)": alike, "other": ~(unclear | alike)}
    print("| signals | " + " | ".join(f"{g}, n = {int(m.sum())}" for g, m in groups.items()) + " |")
    print("|---|" + "---|" * len(groups))
    passed = corner(checked)
    print(
        "| none: the corner | "
        + " | ".join(f"{passed[m].double().mean():.1%}" for m in groups.values())
        + " |"
    )
    for name, chosen in SETS.items():
        columns = [names.index(c) for c in chosen]
        weights, bias = separate(fitted[inside][:, columns], of(fitted_kinds, "ambiguous")[inside])
        fires = passed & (checked[:, columns] @ weights + bias > 0)
        print(f"| {name} | " + " | ".join(f"{fires[m].double().mean():.1%}" for m in groups.values()) + " |")


if __name__ == "__main__":
    asyncio.run(main())
