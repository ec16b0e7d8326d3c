"""A server of another make, without a model: its replies are functions of the request's body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from hypothesis import HealthCheck, settings

from entropick_eval.targets import Identity, Target
from entropick_eval.tasks import Item, parse_item

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""for properties: a machine that is busy is no failure"""
Answer = Callable[[Mapping[str, Any]], httpx.Response]


def completion(text: str, tokens: int = 4, **choice: Any) -> httpx.Response:
    """An answer of a server, with figures of every token where ``choice`` gives them."""
    body = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
    }
    return httpx.Response(200, json=body)


def refusal(
    message: str, status: int = 400, param: str | None = None, code: str | None = None
) -> httpx.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return httpx.Response(status, json={"error": error}, headers={"retry-after": "0"})


class Server:
    """Counts and keeps the bodies that it gets."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.version: str | None = None
        """what ``/version`` says; None: there is no such page"""

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "other", "created": 1}]})
        if request.url.path == "/version" and self.version is not None:
            return httpx.Response(200, json={"version": self.version})
        if request.url.path != "/v1/chat/completions":
            return httpx.Response(404, json={"error": "no such page"})
        self.bodies.append(json.loads(request.content))
        return self.answer(self.bodies[-1])

    def target(self, ours: bool = True, code: str = "c") -> Target:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://server")
        return Target(client, Identity("other", "m", code, "p", ours))


def item(number: int, answer: Any = "yes", **fields: Any) -> Item:
    raw = {
        "id": f"i{number}",
        "family": "f",
        "split": "fit",
        "prompt": f"q{number}",
        "answer": answer,
        **fields,
    }
    return parse_item({name: value for name, value in raw.items() if value is not None}, "s")
