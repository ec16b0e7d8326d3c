"""One answer as it grows: an engine's outputs become text, with each token told when its text is out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ..detokenizer import Detokenizer
from ..engine.base import Engine, EngineError, Tokenizer
from ..engine.types import FinishReason, Request, RequestOutput, Token


class GenerationError(EngineError):
    """This request failed; the others go on."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A token that counts as part of the answer."""

    index: int
    token: Token
    offset: int
    """characters of text before it"""
    ending: bool
    """it ended the answer (end of sequence, a stop token id) and has no text of its own"""
    eos: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """What one engine step added to one choice."""

    choice: int
    text: str
    taken: int
    """tokens that this step added to the answer"""
    released: tuple[Seen, ...]
    """tokens whose last byte is out with ``text`` or was out before"""
    finish_reason: FinishReason | None


class Choice:
    """The state of one answer. ``seen`` holds its tokens, ``text`` what was let out so far.

    ``cached_tokens``: of its prompt, taken from the KV cache. ``branch_tokens``: of branches that lost.
    """

    def __init__(
        self, index: int, request: Request, tokenizer: Tokenizer, eos_token_ids: Sequence[int]
    ) -> None:
        self.index = index
        self.request = request
        self.seen: list[Seen] = []
        self.finish_reason: FinishReason | None = None
        self.cached_tokens = 0
        self.branch_tokens = 0
        self._parts: list[str] = []
        self._released = 0
        self._eos = frozenset(eos_token_ids)
        self._stop_ids = frozenset(request.sampling.stop_token_ids)
        self._detokenizer = Detokenizer(tokenizer.token_bytes, request.sampling.stop)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._parts)

    @property
    def tokens(self) -> list[Token]:
        """Every token of the answer, the ending one included."""
        return [seen.token for seen in self.seen]

    def feed(self, output: RequestOutput) -> Delta:
        """Take one step's output; raises GenerationError where the engine gave this request up."""
        reason = output.finish_reason
        if reason in (FinishReason.ERROR, FinishReason.CANCELLED):
            raise GenerationError(output.error or "The engine gave this request up.")
        self.cached_tokens = output.cached_tokens
        self.branch_tokens = output.branch_tokens
        before = len(self.seen)
        text, released, stopped = self._take(output)
        if stopped:
            reason = FinishReason.STOP
        elif reason is not None:
            rest = self._detokenizer.finish()
            text += rest.text
            released += rest.released
            reason = FinishReason.STOP if rest.stopped else reason
        self.finish_reason = reason
        self._parts.append(text)
        start, self._released = self._released, self._released + released
        return Delta(
            choice=self.index,
            text=text,
            taken=len(self.seen) - before,
            released=tuple(self.seen[start : self._released]),
            finish_reason=reason,
        )

    def _take(self, output: RequestOutput) -> tuple[str, int, bool]:
        text, released = "", 0
        for position, token in enumerate(output.tokens, start=1):
            ending = (
                output.finish_reason is FinishReason.STOP
                and position == len(output.tokens)
                and token.token_id in self._stop_ids
            )
            self.seen.append(
                Seen(
                    index=len(self.seen),
                    token=token,
                    offset=self._detokenizer.offset,
                    ending=ending,
                    eos=ending and token.token_id in self._eos,
                )
            )
            piece = self._detokenizer.push(token.token_id, silent=ending)
            text += piece.text
            released += piece.released
            if piece.stopped:
                # what the engine made after the stop string is no part of the answer
                return text, released, True
        return text, released, False


async def run_choice(choice: Choice, engine: Engine) -> AsyncGenerator[Delta, None]:
    """The choice's deltas up to the one with a finish reason. Closing this cancels the request."""
    outputs = engine.generate(choice.request)
    try:
        async for output in outputs:
            delta = choice.feed(output)
            yield delta
            if delta.finish_reason is not None:
                return
        raise GenerationError("The engine ended this request without a reason.")
    finally:
        await _close(outputs)


async def _close(outputs: AsyncIterator[RequestOutput]) -> None:
    # the contract promises an iterator; where it is a generator it must not wait for the garbage collector
    if isinstance(outputs, AsyncGenerator):
        await outputs.aclose()


async def merge(streams: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Delta, None]:
    """Deltas of several choices as they come. The first failure ends all of them."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for delta in only:
                yield delta
        return
    # unbounded, yet small: a request's max_tokens limits what can wait here
    queue: asyncio.Queue[Delta | int] = asyncio.Queue()

    async def pump(number: int) -> None:
        try:
            async with aclosing(streams[number]) as stream:
                async for delta in stream:
                    queue.put_nowait(delta)
        finally:
            queue.put_nowait(number)

    tasks = [asyncio.create_task(pump(number)) for number in range(len(streams))]
    try:
        for _ in range(len(tasks)):
            while isinstance(item := await queue.get(), Delta):
                yield item
            await tasks[item]
    finally:
        for task in tasks:
            await stop_task(task)


async def stop_task(task: asyncio.Task[None]) -> None:
    """Cancel a task, wait for its end and take note of its exception, so that nothing is left behind."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
