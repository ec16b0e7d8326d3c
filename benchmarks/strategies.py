"""Which strategy picks which tokens, by kind of prompt, on prompts that calibration never saw.

Prints the share of tokens by strategy, and CLARIFY's rate on ambiguous prompts against plain random choices
and against the rest (share of replies in which it fires at least once), as ratios with 95 % intervals.

    python benchmarks/strategies.py [--per-kind 20] [--model DIR]
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter, defaultdict

from _common import make_engine, prompt_ids, ratio_interval, run_all, unseen_examples, wilson
from entropick_pico import grammar
from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams
from entropick_sampler.strategy import Strategy

RANDOM_KINDS = ("coin", "season", "die", "color", "name", "town", "word", "pick", "home", "visit")
LOOK_ALIKE = ("word",)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-kind", type=int, default=20)
    parser.add_argument("--ambiguous", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--model")
    args = parser.parse_args()
    engine = make_engine(args.model)
    await engine.start()
    kinds = [kind for kind in grammar.KINDS if kind not in ("ambiguous", "clarified")]
    examples = unseen_examples(args.per_kind, args.seed, kinds)
    examples += unseen_examples(args.ambiguous, args.seed + 1, ["ambiguous"])
    examples += unseen_examples(args.ambiguous, args.seed + 2, LOOK_ALIKE)
    prompts = [prompt_ids(engine, e.user) for e in examples]
    sampling = [
        SamplingParams(SEVERAL_TEMPERATURE, seed=i, max_tokens=args.max_tokens) for i in range(len(examples))
    ]
    policy = PolicyConfig(policy="entropix", preset="calibrated")
    rows = await run_all(engine, prompts, policy, sampling)
    profile = engine.profile
    await engine.close()

    print(
        f"{len(examples)} prompts ({len({e.user for e in examples})} distinct), "
        f"profile {profile.id if profile else None}"
    )
    drawn = [[t for t in tokens if not t.forced or t.strategy is Strategy.CLARIFY] for tokens in rows]
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for example, tokens in zip(examples, drawn, strict=True):
        for position, token in enumerate(tokens):
            # the tokens of an inserted text after its first are not decisions
            first = not token.forced or position == 0 or not tokens[position - 1].forced
            if token.strategy is not None and first:
                by_kind[example.kind][token.strategy.label] += 1
    total: Counter[str] = sum(by_kind.values(), Counter())
    names = [s.label for s in Strategy]
    n = sum(total.values())
    print("\n| kind | tokens | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    for kind, count in [*sorted(by_kind.items()), ("all", total)]:
        m = sum(count.values())
        print(f"| {kind} | {m} | " + " | ".join(f"{count[s] / m:.1%}" for s in names) + " |")
    print(f"| all, tokens | {n} | " + " | ".join(str(total[s]) for s in names) + " |")
    dead = [s for s in names if total[s] < 20 and total[s] < 0.005 * n]
    print("\nevery strategy has 0.5 % of the tokens or at least 20:", "yes" if not dead else f"NO: {dead}")

    def fired(kinds: tuple[str, ...]) -> tuple[int, int]:
        hits = [
            any(t.strategy is Strategy.CLARIFY for t in tokens)
            for e, tokens in zip(examples, rows, strict=True)
            if e.kind in kinds
        ]
        return sum(hits), len(hits)

    rest = tuple(k for k in kinds if k not in RANDOM_KINDS)
    groups = {
        "ambiguous": fired(("ambiguous",)),
        "plain random choices": fired(RANDOM_KINDS),
        "look-alikes (word)": fired(LOOK_ALIKE),
        "the rest": fired(rest),
    }
    print("\n| prompts | replies with CLARIFY | rate | 95 % | ambiguous : this |\n|---|---|---|---|---|")
    a, na = groups["ambiguous"]
    for name, (hits, m) in groups.items():
        low, high = wilson(hits, m)
        ratio, r_low, r_high = ratio_interval(a, na, hits, m)
        versus = "" if name == "ambiguous" else f"{ratio:.1f} ({r_low:.1f} to {r_high:.1f})"
        print(f"| {name} | {hits} of {m} | {hits / m:.1%} | {low:.1%} to {high:.1%} | {versus} |")


if __name__ == "__main__":
    asyncio.run(main())
