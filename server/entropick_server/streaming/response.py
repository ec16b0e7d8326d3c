"""The answer of /v1/responses: one reply as items, whole or as events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.base import EngineDeadError, EngineError
from ..engine.types import FinishReason
from ..protocol.errors import ApiError, from_engine
from ..protocol.response_object import (
    IncompleteDetails,
    InputTokensDetails,
    Item,
    OutputTokensDetails,
    ResponseFailure,
    ResponseObject,
    ResponseUsage,
    Status,
)
from ..protocol.responses import TokenLogprob
from ..state import ServerState
from .answer import StreamUsage, Write, row_size, run_choice
from .formats import telemetry_of
from .items import Event, Items
from .logprobs import chat_logprobs
from .pieces import JsonWriter
from .run import Origin, ReplyToken, Run


@dataclass(slots=True)
class ResponseAnswer:
    """A response on its way. ``echoed``: the fields of the request that come back in it."""

    server: ServerState
    origin: Origin
    run: Run
    echoed: dict[str, Any]
    _writer: JsonWriter = field(default_factory=JsonWriter)
    _items: Items = field(init=False)
    _number: int = 0

    def __post_init__(self) -> None:
        """Begins without items."""
        self._items = Items(self._writer, self._rows)

    async def collect(self) -> list[bytes]:
        """Runs the reply to its end. Returns the JSON of the response in pieces."""

        async def deliver(run: Run, text: str, first: bool) -> None:
            for _ in self._grow(text):
                pass

        await run_choice(self.server, self.run, deliver)
        return await self.server.offload.run(self._size(), lambda: list(self._writer.pieces(self._whole())))

    async def stream(self, write: Write, usage: StreamUsage) -> None:
        """Runs the reply and writes its events, none before the first output; the last holds the usage."""
        began = False

        async def deliver(run: Run, text: str, first: bool) -> None:
            nonlocal began
            if first:
                began = True
                started = self._response("in_progress", [])
                opening = [{"type": f"response.{n}", "response": started} for n in ("created", "in_progress")]
                await write(self._events(opening))
            # at its end a text comes whole, with all its log probabilities
            size = 0 if run.finish_reason is None else self._size()
            if events := await self._beside(size, lambda: self._events(self._grow(text))):
                await write(events)

        try:
            await run_choice(self.server, self.run, deliver)
        except EngineError as error:
            if not began:
                raise
            await write(self._failure(error))
            return
        await write(await self._beside(self._size(), self._last))

    async def _beside(self, size: int, work: Callable[[], bytes]) -> bytes:
        """Runs ``work`` beside the event loop unless it is small; a stream can tell a shutdown's error."""
        try:
            return await self.server.offload.run(size, work)
        except ApiError as error:
            raise EngineDeadError(error.message) from error

    def _grow(self, text: str) -> Iterator[Event]:
        """Adds the text of a step to the items. Yields its events, which are to be written as they come."""
        for delta, tokens in self.run.pieces(text):
            for event in self._items.add(delta, tokens):
                if event["type"].endswith(".delta"):
                    rows = telemetry_of(self.run, tokens, end=False)
                    if rows is not None:
                        event |= {"entropick": rows}
                yield event
        if self.run.finish_reason is not None:
            yield from self._items.finish(self._status())

    def _rows(self, tokens: Sequence[ReplyToken]) -> Sequence[TokenLogprob]:
        """Returns the log probabilities of some tokens; none where the request wants none."""
        logprobs = chat_logprobs(self.run, tokens)
        return [] if logprobs is None else logprobs.content

    def _status(self) -> Status:
        return "incomplete" if self.run.finish_reason is FinishReason.LENGTH else "completed"

    def _whole(self) -> ResponseObject:
        """Returns the response, whose long lists are made while the writer writes them."""
        response = self._response(self._status(), [self._items.told(item) for item in self._items.done])
        telemetry = telemetry_of(self.run, self.run.tokens, end=True, writer=self._writer)
        if telemetry is not None:
            response.entropick = telemetry
        return response

    def _last(self) -> bytes:
        return self._events([{"type": f"response.{self._status()}", "response": self._whole()}])

    def _failure(self, error: EngineError) -> bytes:
        refusal = from_engine(error)
        response = self._response("failed", self._items.done)
        response.error = ResponseFailure(code="server_error", message=refusal.message)
        return self._events([{"type": "response.failed", "response": response}])

    def _response(self, status: Status, output: list[Item]) -> ResponseObject:
        cut = status == "incomplete"
        return ResponseObject(
            id=self.origin.answer_id,
            object="response",
            created_at=self.origin.created,
            status=status,
            error=None,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if cut else None,
            model=self.origin.model.info.name,
            output=list(output),
            previous_response_id=None,
            store=False,
            truncation="disabled",
            usage=None if status == "in_progress" else self._usage(),
            **self.echoed,
        )

    def _usage(self) -> ResponseUsage:
        run = self.run
        prompt, reply = len(run.request.prompt_token_ids), len(run.tokens)
        message = run.message
        reasons = sum(message.reasons_at(token.offset) for token in run.tokens) if message is not None else 0
        return ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=run.cached_tokens),
            output_tokens=reply,
            output_tokens_details=OutputTokensDetails(
                reasoning_tokens=reasons, branch_tokens=run.branch_tokens
            ),
            total_tokens=prompt + reply,
        )

    def _size(self) -> int:
        """Returns the size of the work to write the whole response (``offload``)."""
        return len(self.run.tokens) * row_size(self.run.request)

    def _events(self, events: Iterable[Event]) -> bytes:
        written: list[bytes] = []
        for told in events:
            numbered = {**told, "sequence_number": self._number}
            self._number += 1
            written.append(f"event: {told['type']}\ndata: ".encode())
            written += self._writer.pieces(numbered)
            written.append(b"\n\n")
        return b"".join(written)
