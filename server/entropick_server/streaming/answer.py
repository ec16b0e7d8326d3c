"""The envelope around choices: one JSON answer, or the frames of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ..protocol.errors import ApiError
from ..protocol.responses import (
    ChatChunkChoice,
    Completion,
    CompletionChoice,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)
from .choice import Choice, Delta, Seen
from .formats import Format, Report
from .ranking import best

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that stays the same over one HTTP request.

    ``choices``: ``best_of`` of each prompt, of which the ``n`` best come back, prompt by prompt.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    format: Format
    report: Report
    choices: Sequence[Choice]
    n: int = 1
    best_of: int = 1

    @property
    def usage(self) -> Usage:
        """Counts over all choices, a prompt once.

        The end-of-sequence token is a completion token, a losing branch's is not; those of completions that
        do not come back are.
        """
        firsts = [choice for choice in self.choices if not choice.request.choice]
        prompt = sum(len(choice.request.prompt_token_ids) for choice in firsts)
        completion = sum(len(choice.seen) for choice in self.choices)
        details = CompletionTokensDetails(branch_tokens=sum(choice.branch_tokens for choice in self.choices))
        if self.best_of > self.n:
            details.best_of_tokens = completion - sum(len(choice.seen) for choice in self._returned())
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=sum(choice.cached_tokens for choice in firsts)
            ),
            completion_tokens_details=details,
        )

    async def collect(self, deltas: AsyncGenerator[Delta, None]) -> str:
        """Run to the end; the JSON text of the whole answer."""
        async with aclosing(deltas) as stream:
            async for _ in stream:
                pass
        whole = self._envelope(self.format.whole_object)
        returned = [self.format.whole(choice, self.report) for choice in self._returned()]
        for index, choice in enumerate(returned):
            choice.index = index
        whole.choices = [*returned]
        whole.usage = self.usage
        return whole.wire()

    async def frames(
        self, deltas: AsyncGenerator[Delta, None], *, include_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events up to [DONE]. Nothing is sent before the engine's first output."""
        waiting: dict[int, list[Seen]] = {choice.index: [] for choice in self.choices}
        opened: set[int] = set()
        async with aclosing(deltas) as stream:
            async for delta in stream:
                choice = self.choices[delta.choice]
                if delta.choice not in opened:
                    opened.add(delta.choice)
                    if (first := self.format.opening(choice)) is not None:
                        yield self._chunk(first, include_usage)
                held = waiting[delta.choice]
                held.extend(delta.released)
                if delta.text:
                    yield self._chunk(self.format.piece(choice, delta.text, held, self.report), include_usage)
                    held.clear()
                if delta.finish_reason is not None:
                    yield self._chunk(self.format.closing(choice, held, self.report), include_usage)
        if include_usage:
            last = self._envelope(self.format.chunk_object)
            last.usage = self.usage
            yield frame(last.wire())
        yield DONE

    def _returned(self) -> list[Choice]:
        if self.best_of == self.n:
            return list(self.choices)
        size = self.best_of
        prompts = [self.choices[at : at + size] for at in range(0, len(self.choices), size)]
        return [choice for completions in prompts for choice in best(completions, self.n)]

    def _chunk(self, choice: ChatChunkChoice | CompletionChoice, include_usage: bool) -> bytes:
        chunk = self._envelope(self.format.chunk_object)
        chunk.choices = [choice]
        if include_usage:
            chunk.usage = None
        return frame(chunk.wire())

    def _envelope(self, kind: str) -> Completion:
        return Completion(
            id=self.id,
            object=kind,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=[],
        )


def frame(data: str) -> bytes:
    """One server-sent event."""
    return b"data: " + data.encode() + b"\n\n"


def error_frame(error: ApiError) -> bytes:
    """The event that ends a stream which failed."""
    return frame(json.dumps(error.body(), ensure_ascii=False))
