"""The answer to one HTTP request: it runs its choices, and envelops them as one JSON text or as events."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..engine.base import EngineDeadError, RequestTimeoutError
from ..engine.types import Request
from ..protocol.errors import ApiError
from ..protocol.responses import (
    ChatChoice,
    ChatChunkChoice,
    Completion,
    CompletionChoice,
)
from ..protocol.usage import CompletionTokensDetails, PromptTokensDetails, Usage
from ..state import ServerState
from .formats import Format
from .pieces import JsonWriter
from .ranking import best
from .run import GenerationError, Origin, Run

DONE = b"data: [DONE]\n\n"
ROW_SIZE = 16
"""characters of a text that take as long to tokenise as a token's row or log probabilities to write"""
FULL_ROW_SIZE = 512
"""the same of a row with the figures of every layer and head"""
Write = Callable[[bytes | Sequence[bytes]], Awaitable[None]]
"""sends some bytes of a stream, whole or in pieces; raises ClientGoneError"""
Deliver = Callable[[Run, str, bool], Awaitable[None]]
"""takes a choice, the text that a step added to it, and whether that was its first step"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its choices.

    ``runs``: ``best_of`` of each prompt, of which the ``n`` best come back, prompt by prompt.
    """

    server: ServerState
    origin: Origin
    format: Format
    runs: Sequence[Run]
    n: int = 1
    best_of: int = 1

    async def collect(self) -> list[bytes]:
        """Runs the choices to their end. Returns the JSON of the whole answer in pieces."""
        await self._run_all(None)
        size = sum(len(run.tokens) for run in self.runs) * row_size(self.runs[0].request)
        size += sum(len(run.prompt) for run in self.runs) * ROW_SIZE
        return await self.server.offload.run(size, self._whole)

    async def stream(self, write: Write, usage: StreamUsage) -> None:
        """Runs the choices and writes server-sent events up to [DONE], none before the first output."""
        await self._run_all(lambda run, text, first: self._write(write, run, text, first, usage))
        if usage is not StreamUsage.NONE:
            last = envelope(self.origin, self.format.chunk_object)
            last.usage = self._usage(self.runs)
            await write(event(last.model_dump_json(exclude_unset=True)))
        await write(DONE)

    async def _run_all(self, deliver: Deliver | None) -> None:
        """Runs the choices side by side. The first failure ends all of them."""
        if len(self.runs) == 1:
            await run_choice(self.server, self.runs[0], deliver)
            return
        tasks = [asyncio.create_task(run_choice(self.server, run, deliver)) for run in self.runs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _write(self, write: Write, run: Run, text: str, first: bool, usage: StreamUsage) -> None:
        """Writes the chunks of an engine step's output for a choice."""
        chunks: list[ChatChunkChoice | CompletionChoice] = []
        if first and (opening := self.format.opening(run)) is not None:
            chunks.append(opening)
        chunks += [self.format.chunk(run, delta, tokens) for delta, tokens in run.pieces(text)]
        sent = self._usage(self.runs) if usage is StreamUsage.ALWAYS else usage.of_a_chunk
        events: list[bytes] = []
        for number, choice in enumerate(chunks):
            ids = self.format.told_ids(run) if first and not number else None
            events += chunk_event(self.origin, self.format, choice, sent, ids)
        if not run.request.policy.at_end:
            run.lighten()
        if run.finish_reason is not None:
            events += await last_event(self.server, self.origin, self.format, run, sent)
        if events:
            await write(events)

    def _whole(self) -> list[bytes]:
        whole = envelope(self.origin, self.format.whole_object)
        runs = list(self.runs)
        if self.best_of > self.n:
            prompts = [runs[at : at + self.best_of] for at in range(0, len(runs), self.best_of)]
            runs = [run for completions in prompts for run in best(completions, self.n)]
        writer = JsonWriter()
        whole.choices = writer.later(whole_choices(self.format, runs, writer))
        self.format.tell_prompt(whole, runs[0], writer)
        whole.usage = self._usage(runs)
        pieces = list(writer.pieces(whole))
        for run in self.runs:
            run.lighten(whole=True)
        return pieces

    def _usage(self, returned: Sequence[Run]) -> Usage:
        """Returns the counts over all choices, a prompt once.

        The end-of-sequence token is a completion token, a losing branch's is not; those of completions that
        do not come back are.
        """
        firsts = [run for run in self.runs if run.request.counts_prompt]
        prompt = sum(len(run.request.prompt_token_ids) for run in firsts)
        completion = sum(len(run.tokens) for run in self.runs)
        details = CompletionTokensDetails(branch_tokens=sum(run.branch_tokens for run in self.runs))
        if self.best_of > self.n:
            details.best_of_tokens = completion - sum(len(run.tokens) for run in returned)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(run.cached_tokens for run in firsts)),
            completion_tokens_details=details,
        )


def whole_choices(
    kind: Format, runs: Iterable[Run], writer: JsonWriter
) -> Iterator[list[ChatChoice | CompletionChoice]]:
    """Yields the finished choices of an answer, numbered in their order there."""
    for index, run in enumerate(runs):
        choice = kind.whole(run, writer)
        choice.index = index
        yield [choice]


def row_size(request: Request) -> int:
    """Returns the characters of a text that take as long to tokenise as a token of an answer to write."""
    if request.policy.telemetry == "full":
        return FULL_ROW_SIZE
    return ROW_SIZE if request.policy.telemetry == "tokens" or request.sampling.logprobs is not None else 1


async def run_choice(server: ServerState, run: Run, deliver: Deliver | None) -> None:
    """Runs one choice to its end; leaving early cancels its request.

    Raises RequestTimeoutError where that takes longer than the server allows.
    """
    with run:
        try:
            async with asyncio.timeout(run.seconds_left) as limit:
                await _run_on(server, run, deliver)
        except TimeoutError as error:
            if not limit.expired():
                raise
            seconds = server.settings.request_timeout_seconds
            message = f"The request took longer than {seconds:g} seconds (request_timeout_seconds)."
            raise RequestTimeoutError(message) from error


async def _run_on(server: ServerState, run: Run, deliver: Deliver | None) -> None:
    outputs = server.engine.generate(run.request)
    first = True
    try:
        async for output in outputs:
            text = run.take(output)
            if run.finish_reason is not None:
                await _settle(server, run)
            if deliver is not None:
                await deliver(run, text, first)
                first = False
            if run.finish_reason is not None:
                return
        raise GenerationError("The engine ended this request without a reason.")
    finally:
        # the contract promises an iterator; a generator must not wait for the garbage collector
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()


async def _settle(server: ServerState, run: Run) -> None:
    """Computes the figures of a choice that has ended, beside the event loop where it is long."""
    await server.offload.turn()
    try:
        await server.offload.run(len(run.tokens) * ROW_SIZE, run.settle)
    except ApiError:
        # the server is shutting down
        run.settle()


def envelope(origin: Origin, kind: str) -> Completion:
    """Returns the empty envelope of an answer, or of a chunk; ``kind``: its object on the wire."""
    return Completion(
        id=origin.answer_id,
        object=kind,
        created=origin.created,
        model=origin.model.info.name,
        system_fingerprint=origin.model.fingerprint,
        choices=[],
    )


class StreamUsage(enum.Enum):
    """The usage in a stream: none, on a chunk of its own at the end, or on every chunk."""

    NONE = "none"
    LAST = "last"
    ALWAYS = "always"

    @property
    def of_a_chunk(self) -> Usage | Literal[False] | None:
        """Returns the usage on a choice's chunk where it is not counted; False: there is no such field."""
        return False if self is StreamUsage.NONE else None


def chunk_event(
    origin: Origin,
    kind: Format,
    choice: ChatChunkChoice | CompletionChoice,
    usage: Usage | Literal[False] | None,
    prompt_token_ids: Sequence[int] | None = None,
    writer: JsonWriter | None = None,
) -> list[bytes]:
    """Returns the event of a choice's chunk in pieces.

    ``usage``: on it, null where None; False: without the field. ``prompt_token_ids``: beside the choice, None
    for no such field. ``writer``: has the lists of the choice that are still to be made.
    """
    info, fingerprint = origin.model.info, origin.model.fingerprint
    head = _head(origin.answer_id, kind.chunk_object, origin.created, info.name, fingerprint)
    rest = "]"
    if usage is not False:
        rest += f',"usage":{"null" if usage is None else usage.model_dump_json(exclude_unset=True)}'
    if prompt_token_ids is not None:
        rest += f',"prompt_token_ids":{json.dumps(prompt_token_ids)}'
    if writer is None:
        return [event(f"{head}{choice.model_dump_json(exclude_unset=True)}{rest}}}")]
    return [f"data: {head}".encode(), *writer.pieces(choice), f"{rest}}}\n\n".encode()]


@lru_cache(maxsize=1024)
def _head(answer_id: str, kind: str, created: int, model: str, fingerprint: str) -> str:
    """Returns the JSON text of a chunk up to its choice: the same for every token of an answer."""
    empty = Completion(
        id=answer_id, object=kind, created=created, model=model, system_fingerprint=fingerprint, choices=[]
    )
    return empty.model_dump_json(exclude_unset=True).removesuffix("]}")


async def last_event(
    server: ServerState,
    origin: Origin,
    kind: Format,
    run: Run,
    usage: Usage | Literal[False] | None,
    index: int | None = None,
) -> list[bytes]:
    """Returns the event of a choice's end in pieces, made beside the event loop where it has many rows.

    ``index``: the choice's number on the wire, None for its own.
    """

    def work() -> list[bytes]:
        writer = JsonWriter()
        choice = kind.chunk(run, None, run.hand_out(), writer)
        if index is not None:
            choice.index = index
        events = chunk_event(origin, kind, choice, usage, writer=writer)
        run.lighten(whole=True)
        return events

    size = len(run.tokens) * row_size(run.request) if run.request.policy.at_end else 0
    try:
        return await server.offload.run(size, work)
    except ApiError as error:
        raise EngineDeadError(error.message) from error


def error_event(error: ApiError) -> bytes:
    """Returns the event that ends a stream which failed."""
    return event(json.dumps(error.body(), ensure_ascii=False))


def event(data: str) -> bytes:
    """Returns a text as a server-sent event."""
    return b"data: " + data.encode() + b"\n\n"
