"""Do branches pay? python benchmarks/branches.py [--n 1000] [--model DIR]

Accuracy of the shipped model on held-out tasks that it solves in part, by how tokens are picked: greedy,
plain sampling, the adaptive policy, branches under each scorer, the best of 2, 3 and 5 samples by log
probability, and votes of as many. Paired with greedy on the same prompts (difference and its standard error),
with the tokens that each spends a prompt: those of losing branches and samples count. Then branches beside
the ways of about the same cost. ``add`` and ``parity`` are a mechanism test: the grammar made the right first
token the less likely one.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from _common import make_engine, prompt_ids
from entropick_pico import grammar
from entropick_sampler.branch_config import SCORERS, BranchConfig
from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams
from entropick_sampler.strategy import Strategy
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import Request, Token

TASKS = ("sort_long", "count_long", "add", "parity")
MECHANISM = ("add", "parity")
SAMPLED = SamplingParams(temperature=0.7, top_p=0.9)
VOTES = 5


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    mean_logprob: float
    tokens: int
    """spent, losing branches included"""


async def replies(
    engine: EmbeddedEngine,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    policy: PolicyConfig,
    seeds: Sequence[int],
    max_tokens: int,
    concurrency: int = 16,
) -> list[Reply]:
    """One reply to each prompt."""
    gate = asyncio.Semaphore(concurrency)

    async def one(i: int) -> Reply:
        async with gate:
            own = replace(
                sampling, seed=seeds[i], max_tokens=max_tokens, stop_token_ids=engine.info.eos_token_ids
            )
            request = Request(f"bench-{i}", tuple(prompts[i]), own, policy, time.monotonic())
            tokens: list[Token] = []
            extra = 0
            async for output in engine.generate(request):
                if output.error:
                    raise RuntimeError(output.error)
                tokens.extend(output.tokens)
                extra = output.branch_tokens
            text = engine.tokenizer.decode([t.token_id for t in tokens], skip_special_tokens=True)
            mean = statistics.fmean(t.logprob for t in tokens)
            return Reply(text, mean, len(tokens) + extra)

    return list(await asyncio.gather(*(one(i) for i in range(len(prompts)))))


def vote(samples: Sequence[Reply]) -> Reply:
    """The answer that most samples give, the first of them on ties; its cost is everyone's."""
    counts = Counter(grammar.final_answer(s.text) for s in samples)
    winner = max(samples, key=lambda s: counts[grammar.final_answer(s.text)])
    return replace(winner, tokens=sum(s.tokens for s in samples))


def best(samples: Sequence[Reply]) -> Reply:
    """The sample of the highest mean log probability; its cost is everyone's."""
    winner = max(samples, key=lambda s: s.mean_logprob)
    return replace(winner, tokens=sum(s.tokens for s in samples))


def paired(right: Sequence[bool], base: Sequence[bool]) -> tuple[float, float]:
    """Mean difference of two ways on the same prompts, and its standard error."""
    differences = [int(a) - int(b) for a, b in zip(right, base, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(right))


def line(name: str, right: Sequence[bool], base: Sequence[bool], tokens: Sequence[int]) -> str:
    """A row of the table."""
    n = len(right)
    difference, error = paired(right, base)
    share = sum(right) / n
    return (
        f"| {name} | {share:.1%} ± {math.sqrt(share * (1 - share) / n):.1%} "
        f"| {difference:+.1%} ± {error:.1%} | {statistics.fmean(tokens):.1f} |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--max-tokens", type=int, default=110)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--model")
    args = parser.parse_args()
    engine = make_engine(args.model)
    await engine.start()
    on = frozenset({Strategy.EXPLORE, Strategy.HIGH_UNCERTAINTY, Strategy.ADAPTIVE})
    quiet = {"clarify_budget": 0}
    adaptive = PolicyConfig(preset="calibrated", overrides=quiet)
    print(
        f"{args.n} prompts a task; branches: width {args.width}, depth {args.depth}, budget {args.budget}, "
        f"on {', '.join(sorted(s.label for s in on))}"
    )
    for task in args.tasks:
        rng = random.Random(args.seed)
        examples = [grammar.sample(rng, task, "check") for _ in range(args.n)]
        prompts = [prompt_ids(engine, e.user) for e in examples]

        async def run(
            sampling: SamplingParams, policy: PolicyConfig, shift: int = 0, prompts: list[list[int]] = prompts
        ) -> list[Reply]:
            seeds = [shift * args.n + i for i in range(len(prompts))]
            return await replies(engine, prompts, sampling, policy, seeds, args.max_tokens)

        fixed = PolicyConfig(policy="fixed")
        arms = {"greedy": await run(SamplingParams(temperature=0.0), fixed)}
        samples = [await run(SAMPLED, fixed, shift) for shift in range(VOTES)]
        arms["temperature 0.7, top_p 0.9"] = samples[0]
        arms["adaptive"] = await run(SamplingParams(temperature=SEVERAL_TEMPERATURE), adaptive)
        for scorer in SCORERS:
            branch = BranchConfig(args.width, args.depth, args.budget, scorer, on)  # type: ignore[arg-type]
            arms[f"branches, {scorer}"] = await run(
                SamplingParams(temperature=SEVERAL_TEMPERATURE), replace(adaptive, branch=branch)
            )
        for k in (2, 3, VOTES):
            arms[f"best of {k}"] = [best(group) for group in zip(*samples[:k], strict=True)]
        for k in (2, 3, VOTES):
            arms[f"vote of {k}"] = [vote(group) for group in zip(*samples[:k], strict=True)]
        right = {
            name: [grammar.final_answer(r.text) == e.gold for r, e in zip(given, examples, strict=True)]
            for name, given in arms.items()
        }
        print(f"\n{task}{' (mechanism test)' if task in MECHANISM else ''}\n")
        print("| tokens picked by | accuracy | against greedy, paired | tokens a prompt |\n|---|---|---|---|")
        for name, given in arms.items():
            print(line(name, right[name], right["greedy"], [r.tokens for r in given]), flush=True)
        spent = {name: statistics.fmean(r.tokens for r in given) for name, given in arms.items()}
        print("\n| at equal cost | against | tokens a prompt | accuracy, paired |\n|---|---|---|---|")
        for scorer in ("mean_logprob", "vote"):
            name = f"branches, {scorer}"
            for kind in ("best", "vote"):
                peers = (f"{kind} of {k}" for k in (2, 3, VOTES))
                peer = min(peers, key=lambda p: abs(math.log(spent[p] / spent[name])))
                difference, error = paired(right[name], right[peer])
                print(
                    f"| {name} | {peer} | {spent[name]:.1f}, {spent[peer]:.1f} "
                    f"| {difference:+.1%} ± {error:.1%} |",
                    flush=True,
                )
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
