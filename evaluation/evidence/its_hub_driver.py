"""Answers questions by the algorithms of the package its-hub: a program in that package's environment.

It reads a JSON object a line from its input, a question, and writes one a line, its answer:

- question: ``url`` and ``body`` (of a chat completion, a seed for each reply is added), ``seeds``,
  ``algorithm``, ``options`` (of the algorithm), ``budget``, ``extract`` (as ``entropick.consensus`` takes it)
- answer: ``text``, ``finish`` and ``tokens`` of the reply that its_hub chose, ``completed`` (the tokens of
  all replies that came back), ``seconds``

Replies are asked for by a language model of ours behind its_hub's interface, as its documentation tells
gateways to do: so the sampling parameters and seeds are those of our own arms. Votes are over the same
answers as ours; a reply without an answer votes for itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
from its_hub.api import AbstractLanguageModel
from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency
from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
from its_hub.core.algorithms.self_consistency import SelfConsistency

from entropick_server.answers import extractor

ALGORITHMS: Final[Mapping[str, Callable[..., Any]]] = {
    "self_consistency": SelfConsistency,
    "adaptive": AdaptiveSelfConsistency,
    "beta": BetaSelfConsistency,
}


class Replies(AbstractLanguageModel):  # type: ignore[misc]
    """A language model whose replies to a question are drawn with the question's seeds, in turn."""

    def __init__(self, client: httpx.AsyncClient, question: Mapping[str, Any]) -> None:
        self._client = client
        self._question = question
        self._seeds = iter(question["seeds"])
        self.completed = 0

    async def agenerate(self, messages: Any, stop: str | None = None, **options: Any) -> Any:
        """Returns a reply to a conversation, or a list of replies to a list of conversations.

        Seeds are handed out in the order of the list.
        """
        if messages and isinstance(messages[0], list):
            return await asyncio.gather(*(self.agenerate_single(one, stop, **options) for one in messages))
        return await self.agenerate_single(messages, stop, **options)

    async def agenerate_single(
        self, messages: Any, stop: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Returns a reply as its_hub reads it, with its end and its tokens beside."""
        body = {**self._question["body"], "seed": next(self._seeds)}
        response = await self._client.post(f"{self._question['url']}/v1/chat/completions", json=body)
        response.raise_for_status()
        answer = response.json()
        choice, tokens = answer["choices"][0], int(answer["usage"]["completion_tokens"])
        self.completed += tokens
        content = choice["message"]["content"] or ""
        return {"role": "assistant", "content": content, "finish": choice["finish_reason"], "tokens": tokens}


async def answer(client: httpx.AsyncClient, question: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer of its_hub to a question."""
    extract = extractor(question["extract"])

    def projected(text: str) -> str:
        found = extract(text)
        return f"answer {found.answer}" if found is not None else f"none {text}"

    algorithm = ALGORITHMS[question["algorithm"]](
        consistency_space_projection_func=projected, **question["options"]
    )
    replies = Replies(client, question)
    random.seed(question["seeds"][0])  # its_hub breaks ties by Python's own random numbers
    begin = time.monotonic()
    chosen = await algorithm.ainfer(replies, question["body"]["messages"][-1]["content"], question["budget"])
    seconds = time.monotonic() - begin
    return {
        "text": chosen["content"],
        "finish": chosen["finish"],
        "tokens": chosen["tokens"],
        "completed": replies.completed,
        "seconds": seconds,
    }


async def main() -> None:
    """Answers the questions of the input, one at a time."""
    async with httpx.AsyncClient(timeout=None) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(client, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
