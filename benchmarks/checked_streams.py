"""Streams of a fixed set of requests that are checked token by token, for ``soak.py``."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from _common import unseen_examples

_POLICIES: tuple[dict[str, Any], ...] = (
    {"policy": "fixed"},
    {"preset": "calibrated"},
    {"preset": "seed"},
    {"preset": "calibrated", "branch": {"width": 3, "depth": 6, "budget": 4}},
    {"preset": "seed", "branch": {"width": 2, "depth": 12, "budget": 4, "on": ["adaptive", "explore"]}},
    {"preset": "calibrated", "telemetry": "full"},
)


@dataclass
class Tally:
    """What was seen."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    tokens: int = 0
    differing: int = 0


def requests_of(count: int) -> list[dict[str, Any]]:
    """Requests of every policy over the grammar's tasks, each with a seed of its own."""
    examples = unseen_examples(max(1, count // 8), seed=11)
    random.Random(5).shuffle(examples)
    requests = []
    for i, example in enumerate(examples[:count]):
        ours = {"telemetry": "tokens", **_POLICIES[i % len(_POLICIES)]}
        requests.append(
            {
                "messages": [{"role": "user", "content": example.user}],
                "seed": i,
                "n": 1 + (i % 7 == 3),
                "max_tokens": 24 + 24 * (i % 6),
                "ignore_eos": i % 3 > 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "entropick": ours,
            }
        )
    return requests


async def stream(
    client: httpx.AsyncClient, body: dict[str, Any], leave_after: int | None, tally: Tally
) -> list[str] | None:
    """The texts of one stream; None where it was left after ``leave_after`` chunks, or is faulty."""
    texts = [""] * body["n"]
    rows: list[list[dict[str, Any]]] = [[] for _ in texts]
    ends: list[str | None] = [None] * len(texts)
    usage, chunks = None, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            tally.faults.append(f"HTTP {response.status_code}: {response.text[:200]}")
            return None
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                tally.faults.append(f"in the stream: {chunk['error']}")
                return None
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                i = choice["index"]
                texts[i] += choice["delta"].get("content") or ""
                rows[i] += (choice.get("entropick") or {}).get("tokens") or []
                ends[i] = choice["finish_reason"] or ends[i]
            chunks += 1
            if leave_after is not None and chunks >= leave_after:
                tally.ends["left"] += 1
                return None
    tally.tokens += sum(map(len, rows))
    tally.ends.update(str(end) for end in ends)
    if None in ends or usage is None:
        tally.faults.append("a stream ended without finish_reason or usage")
    elif sum(map(len, rows)) != usage["completion_tokens"]:
        tally.faults.append(f"{[len(r) for r in rows]} rows, usage {usage['completion_tokens']}")
    elif any([row["index"] for row in told] != list(range(len(told))) for told in rows):
        tally.faults.append(f"rows {[[row['index'] for row in told] for told in rows]}")
    # special tokens have rows and no text
    elif texts != ["".join(r["token"] for r in told if not r["token"].startswith("<|")) for told in rows]:
        tally.faults.append(f"the texts are {texts!r}, their rows {[[r['token'] for r in t] for t in rows]}")
    else:
        return texts
    return None


async def client_loop(
    url: str,
    requests: list[dict[str, Any]],
    alone: list[list[str]],
    until: float,
    leaver: bool,
    seed: int,
    tally: Tally,
) -> None:
    """One client: request after request until the time is over."""
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while time.monotonic() < until:
            i = rng.randrange(len(requests))
            leave = rng.randint(1, 20) if leaver else None
            texts = await stream(client, requests[i], leave, tally)
            if texts is not None and texts != alone[i]:
                tally.differing += 1
            if len(tally.faults) > 20:
                return
