"""The answer of /v1/responses: one reply as items, whole or as events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..engine.base import EngineError
from ..engine.types import FinishReason
from ..protocol.errors import from_engine
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
from ..protocol.responses import TELEMETRY
from ..state import ServerState
from .answer import ROW_SIZE, StreamUsage, Write, run_choice
from .formats import telemetry_of
from .items import Event, Items
from .logprobs import chat_logprobs
from .run import Origin, Run


@dataclass(slots=True)
class ResponseAnswer:
    """A response on its way. ``echoed``: the fields of the request that come back in it."""

    server: ServerState
    origin: Origin
    run: Run
    echoed: dict[str, Any]
    _items: Items = field(default_factory=Items)
    _number: int = 0

    async def collect(self) -> str:
        """Runs the reply to its end. Returns the JSON text of the response."""

        async def deliver(run: Run, text: str, first: bool) -> None:
            self._grow(text)

        await run_choice(self.server, self.run, deliver)
        return await self.server.offload.run(self._size(), self._whole)

    async def stream(self, write: Write, usage: StreamUsage) -> None:
        """Runs the reply and writes its events, none before the first output; the last holds the usage."""
        began = False

        async def deliver(run: Run, text: str, first: bool) -> None:
            nonlocal began
            if first:
                began = True
                started = self._response("in_progress", []).model_dump(exclude_unset=True)
                opening = [{"type": f"response.{n}", "response": started} for n in ("created", "in_progress")]
                await write(self._events(opening))
            if events := self._grow(text):
                await write(self._events(events))

        try:
            await run_choice(self.server, self.run, deliver)
        except EngineError as error:
            if not began:
                raise
            await write(self._failure(error))
            return
        await write(await self.server.offload.run(self._size(), self._last))

    def _grow(self, text: str) -> list[Event]:
        """Adds what a step brought to the items. Returns the events of it."""
        events: list[Event] = []
        for delta, tokens in self.run.pieces(text):
            logprobs = chat_logprobs(self.run, tokens)
            for event in self._items.add(delta, logprobs.content if logprobs is not None else []):
                if event["type"].endswith(".delta"):
                    rows = telemetry_of(self.run, tokens, end=False)
                    if rows is not None:
                        event |= {"entropick": TELEMETRY.dump_python(rows, exclude_unset=True)}
                events.append(event)
        if self.run.finish_reason is not None:
            events += self._items.finish(self._status())
        return events

    def _status(self) -> Status:
        return "incomplete" if self.run.finish_reason is FinishReason.LENGTH else "completed"

    def _whole(self) -> str:
        response = self._response(self._status(), self._items.done)
        if (telemetry := telemetry_of(self.run, self.run.tokens, end=True)) is not None:
            response.entropick = telemetry
        return response.model_dump_json(exclude_unset=True)

    def _last(self) -> bytes:
        response = json.loads(self._whole())
        return self._events([{"type": f"response.{self._status()}", "response": response}])

    def _failure(self, error: EngineError) -> bytes:
        refusal = from_engine(error)
        response = self._response("failed", self._items.done)
        response.error = ResponseFailure(code="server_error", message=refusal.message)
        return self._events(
            [{"type": "response.failed", "response": response.model_dump(exclude_unset=True)}]
        )

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
        request = self.run.request
        verbose = request.policy.telemetry in ("tokens", "full") or request.sampling.logprobs is not None
        return len(self.run.tokens) * (ROW_SIZE if verbose else 1)

    def _events(self, events: Iterable[Event]) -> bytes:
        written = []
        for told in events:
            numbered = {**told, "sequence_number": self._number}
            self._number += 1
            data = json.dumps(numbered, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            written.append(f"event: {told['type']}\ndata: {data}\n\n")
        return "".join(written).encode()
