"""A bounded load of every kind of request: each metric of the server moves."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import httpx

from entropick_pico import grammar

SECONDS = float(os.environ.get("DASHBOARDS_SECONDS", "180"))
CLIENTS = 6
PAUSE = 0.2
"""seconds of a client between two requests"""
CHAT = "/v1/chat/completions"
_BRANCH = {"width": 3, "depth": 4, "budget": 4, "on": ["adaptive", "explore", "high_uncertainty"]}
_OURS: tuple[dict[str, Any], ...] = (
    {"entropick": {"telemetry": "tokens"}},
    {"temperature": 1.0, "entropick": {"genuineness": True}},
    {"temperature": 0},
    {"entropick": {"preset": "seed"}, "temperature": 1.5},
    {"entropick": {"branch": _BRANCH}},
    {"entropick": {"consensus": {"extract": "text", "k": 4}}, "temperature": 1.0},
    {"entropick": {"policy": "fixed"}, "temperature": 1.2},
    {"n": 3, "temperature": 1.0, "entropick": {"genuineness": "seed"}},
    {"ignore_eos": True, "max_tokens": 120, "temperature": 1.2, "entropick": {"genuineness": True}},
)  # fmt: skip


class Load:
    """Some clients that ask one thing after the other; ``ends`` counts what came back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ends: Counter[int] = Counter()

    def run(self, seconds: float = SECONDS) -> None:
        """Asks for some seconds, then prints what came back."""
        asyncio.run(self._clients(time.monotonic() + seconds))
        print(f"load: {CLIENTS} clients, {seconds:.0f} s, HTTP statuses {dict(self.ends)}")

    def short(self, count: int) -> None:
        """Asks ``count`` short things, 16 at a time."""
        asyncio.run(self._short(count))

    async def _short(self, count: int) -> None:
        gate = asyncio.Semaphore(16)
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:

            async def one(number: int) -> None:
                async with gate:
                    kind = {
                        **_OURS[number % len(_OURS)],
                        "max_tokens": 4,
                        "ignore_eos": False,
                        "stream": False,
                    }
                    body = {"messages": [{"role": "user", "content": "Hi"}], "seed": number, **kind}
                    self.ends[(await client.post(CHAT, json=body)).status_code] += 1

            await asyncio.gather(*(one(number) for number in range(count)))

    async def _clients(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            await asyncio.gather(*(self._client(client, number, until) for number in range(CLIENTS)))

    async def _client(self, client: httpx.AsyncClient, number: int, until: float) -> None:
        rng = random.Random(number)
        count = 0
        while time.monotonic() < until:
            count += 1
            example = grammar.sample(rng, rng.choice(grammar.KINDS), "check")
            kind = _OURS[(number + count) % len(_OURS)]
            body = {
                "messages": [{"role": "user", "content": example.user}],
                "max_tokens": 64,
                "stream": count % 3 == 0,
                **kind,
            }
            if count % 20 == 0:
                body = {"messages": []}  # a 400
            answer = await client.post(CHAT, json=body)
            self.ends[answer.status_code] += 1
            if count % 10 == 0:
                await client.get("/v1/requests")
                await client.get("/nothing/of/this/name")
            await asyncio.sleep(PAUSE)
