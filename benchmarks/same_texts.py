"""200 seeded requests of all kinds to a running server: are the answers those of another version, or engine?

    entropick serve ... &                                      # the version before
    python benchmarks/same_texts.py --url http://127.0.0.1:8000 --write before.json
    entropick serve ... &                                      # the version after
    python benchmarks/same_texts.py --url http://127.0.0.1:8000 --compare before.json

Texts, token ids, strategies and finish reasons must be equal; of the figures the largest difference is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx

from _common import unseen_examples

COUNT = 200
AT_ONCE = 12
POLICIES: tuple[dict[str, Any], ...] = (
    {"policy": "fixed"},
    {"preset": "calibrated"},
    {"preset": "seed"},
    {"preset": "calibrated", "overrides": {"clarify_budget": 4, "clarify_cooldown": 8}},
    {"preset": "seed", "branch": {"width": 3, "depth": 6, "budget": 4.0, "on": ["explore", "adaptive"]}},
    {"preset": "calibrated", "branch": {"width": 4, "depth": 8, "budget": 8.0, "scorer": "lowest_group"}},
)


def bodies(seed: int) -> list[dict[str, Any]]:
    """Requests of all kinds, the same for the same seed."""
    rng = random.Random(seed)
    examples = unseen_examples(COUNT, seed)
    made: list[dict[str, Any]] = []
    for i, example in enumerate(examples[:COUNT]):
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": example.user}],
            "seed": rng.getrandbits(52),
            "max_tokens": rng.choice([8, 24, 48]),
            "entropick": {**POLICIES[i % len(POLICIES)], "telemetry": rng.choice(["tokens", "full"])},
        }
        if rng.random() < 0.5:
            body["temperature"] = rng.choice([0.3, 0.7, 1.0, 1.3])
        if rng.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": 3}
        if rng.random() < 0.2:
            body["n"] = rng.choice([2, 3])
        if rng.random() < 0.2:
            body["stop"] = [" the"]
        made.append(body)
    return made


async def ask(client: httpx.AsyncClient, body: dict[str, Any], gate: asyncio.Semaphore) -> list[Any]:
    """The choices of an answer, without what differs from run to run."""
    async with gate:
        answer = await client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    choices: list[Any] = answer.json()["choices"]
    for choice in choices:
        choice["entropick"]["summary"].pop("profile", None)
    return choices


async def ask_all(url: str, seed: int, at_once: int) -> list[list[Any]]:
    """The choices of every answer, in order."""
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        return list(await asyncio.gather(*(ask(client, body, gate) for body in bodies(seed))))


def said(choice: dict[str, Any]) -> tuple[Any, ...]:
    """Everything of a choice that is not a figure."""
    rows = choice["entropick"]["tokens"]
    return (
        choice["message"]["content"],
        choice["finish_reason"],
        [(row["token_id"], row["strategy"], row["forced"]) for row in rows],
    )


def numbers(value: Any) -> list[float]:
    """Every number in a JSON value, in order."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def main() -> None:
    """Write the answers, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    answers = asyncio.run(ask_all(options.url, options.seed, options.at_once))
    tokens = sum(len(choice["entropick"]["tokens"]) for choices in answers for choice in choices)
    print(f"{len(answers)} requests, {sum(map(len, answers))} choices, {tokens} tokens")
    if options.write:
        options.write.write_text(json.dumps(answers))
    if options.compare:
        before = json.loads(options.compare.read_text())
        equal = sum(
            [said(c) for c in a] == [said(c) for c in b] for a, b in zip(answers, before, strict=True)
        )
        bits = sum(a == b for a, b in zip(answers, before, strict=True))
        apart = 0.0
        for a, b in zip(answers, before, strict=True):
            x, y = numbers(a), numbers(b)
            if len(x) == len(y):
                apart = max([apart, *(abs(p - q) for p, q in zip(x, y, strict=True))])
        print(f"equal texts, tokens, strategies and ends: {equal} of {len(answers)}")
        print(f"equal in every figure to the bit: {bits}; largest difference of a figure {apart:.3g}")
        if equal < len(answers):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
