"""Which signals tell an ambiguous question from a random choice that looks like it.

Measures the first token of replies (teacher-forced) to ambiguous questions and to other prompts, fits the
linear discriminant of calibration on the calibration half with some of the signals only, and counts on the
check half which tokens of CLARIFY's corner pass.

    python benchmarks/clarify.py [--labelled 400] [--model DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import random

import torch

from _common import make_engine, prompt_ids
from entropick_pico import grammar
from entropick_sampler.calibrate import separate
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_server.calibration import Sample, collect, measure
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


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labelled", type=int, default=400)
    parser.add_argument("--model")
    args = parser.parse_args()
    engine = make_engine(args.model)
    await engine.start()
    if engine.profile is None:
        raise SystemExit("this model has no profile, so no corner to look at")
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
