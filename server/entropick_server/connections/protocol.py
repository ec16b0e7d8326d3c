"""One HTTP/1.1 connection: uvicorn's protocol, with a place in the table of connections and its deadlines."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from ..protocol.errors import ApiError, bad_request
from .arrival import RESET, TOO_SLOW, Arrival
from .bodies import BodyBudget, IncomingBody
from .limits import ConnectionLimits
from .table import ConnectionTable, Phase

WRITE_BUFFER: Final = 1 << 16
"""bytes that are buffered for a client beyond those that the system buffers"""
_LINGER_SECONDS: Final = 10.0
"""seconds in which the rest of a body that nothing reads is read and dropped"""


def phase_seconds(limits: ConnectionLimits) -> dict[Phase, float]:
    """Returns how long a connection may stay in a phase; the others end by themselves."""
    return {
        Phase.HEADERS: limits.header_seconds,
        Phase.LINGER: _LINGER_SECONDS,
        Phase.IDLE: limits.idle_seconds,
        Phase.WRITING: limits.write_seconds,
    }


class Connection(H11Protocol):
    """A connection that is in the table from its first moment to its last."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        shared: tuple[ConnectionTable, BodyBudget, ConnectionLimits],
        arrival: Arrival,
    ) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        self.phase: Phase | None = None
        self.since = self.began = 0.0
        self._table, self._budget, self._limits = shared
        self._socket = arrival.accepted
        self._arrival = arrival
        self._guarded = self.app
        self.app = self._serve
        self._body: IncomingBody | None = None
        self._gone = False

    # asyncio's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._table.discard(self._arrival)
        self._settle()
        if self._arrival.received:
            self.loop.call_soon(self.data_received, b"")

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request."""
        if self._gone or self.transport.is_closing():
            return
        if received := self._arrival.received:
            # they came first; which call comes first is the loop's affair (uvloop reads at once)
            data = bytes(received) + data
            received.clear()
        if not data:
            return
        super().data_received(data)
        self._settle()

    def pause_writing(self) -> None:
        """Begins to wait for the client to read."""
        super().pause_writing()
        if not self._gone:
            self._table.move(self, Phase.WRITING)

    def resume_writing(self) -> None:
        """Goes on, because the client has read."""
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)
        super().resume_writing()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the request that runs, and leaves the table."""
        self._leave()
        super().connection_lost(exc)

    # uvicorn's calls

    def on_response_complete(self) -> None:
        """Waits until the answer is taken, and for another request."""
        super().on_response_complete()
        # the table holds that time too, and uvicorn's would begin before the answer is taken
        self._unset_keepalive_if_required()
        self._until_taken()
        self._settle()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that are no HTTP, in OpenAI's shape; with a 431 where the head is too large."""
        # uvicorn calls this where it handles h11's error, which knows the status
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status == 431:
            self._refuse(ApiError(431, "The head of the request is too large.", code="headers_too_large"))
        else:
            self._refuse(bad_request(msg, code="invalid_http"))

    def shutdown(self) -> None:
        """Ends the connection, behind the answer that is being made or sent."""
        if self._gone:
            return
        if self.phase is Phase.BODY:
            self.drop()
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
            self._until_taken()
        else:
            self.cycle.keep_alive = False

    # the table's calls

    def expire(self) -> None:
        """Ends the connection, whose phase has lasted too long."""
        notes = self._table.notes
        if self.phase is Phase.WRITING:
            notes.count(f"closed, whose client read too little for {self._limits.write_seconds:g} s")
            self.drop()
        elif self.transport.is_closing():
            # over TLS, whose end has a deadline of its own
            return
        elif self.phase is Phase.IDLE:
            self.transport.close()
        elif self.phase is Phase.HEADERS and self._in_head():
            notes.count(f"closed, whose head was not whole after {self._limits.header_seconds:g} s")
            self._refuse(TOO_SLOW)
        else:
            # without a request: an answer to none would be read as one to the next
            self.drop()

    def drop(self) -> None:
        """Closes the connection at once; bytes that are buffered, here and in the system, are dropped."""
        if self._gone:
            return
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._leave()
        self.transport.abort()

    # the application's calls

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application, whose reads have deadlines and whose writes are small."""
        cycle = self.cycle
        body = self._body = IncomingBody(self._budget, self._limits.body_seconds, self._body_size())

        async def read() -> Message:
            return await body.receive(receive)

        async def write(message: Message) -> None:
            for part in _parts(message):
                await send(part)
                if len(part.get("body", b"")) == WRITE_BUFFER:
                    # a client that reads as fast as this writes must not keep the others waiting
                    await asyncio.sleep(0)

        try:
            await self._guarded(scope, read, write)
        finally:
            body.end()
            if cycle.response_started and not cycle.response_complete:
                self._until_taken()
        if cycle.response_started and not cycle.response_complete and not cycle.disconnected:
            # the application gave the client up; uvicorn would wait until it has read
            self._table.notes.count("closed, whose client did not read its stream")
            self.drop()

    def _body_size(self) -> int:
        """Returns how many bytes of the newest request's body can be held: none that are refused unread."""
        headers = dict(self.headers)
        if b"transfer-encoding" in headers:
            return self._limits.largest_body
        declared = int(headers.get(b"content-length", b"0"))
        return declared if declared <= self._limits.largest_body else 0

    # ours

    def _settle(self) -> None:
        """Finds the phase out."""
        if self._gone or self.transport.is_closing() or self.flow.write_paused:
            return
        self._table.move(self, self._due())

    def _due(self) -> Phase:
        cycle = self.cycle
        if cycle is None:
            return Phase.HEADERS
        whole = self.conn.their_state is not h11.SEND_BODY
        if not cycle.response_complete:
            if self.phase not in (Phase.BODY, Phase.ANSWER, Phase.WRITING):
                self.began = time.monotonic()
            return Phase.ANSWER if whole else Phase.BODY
        if not whole:
            return Phase.LINGER
        return Phase.HEADERS if self._in_head() else Phase.IDLE

    def _in_head(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _until_taken(self) -> None:
        """Waits for the client to take all that is buffered for it, as it does of more than the bound."""
        if not self._gone and not self.flow.write_paused and self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(high=0)

    def _leave(self) -> None:
        """Leaves the table; a request that runs finds its client gone."""
        self._gone = True
        self._table.discard(self)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_writing()
        if self._body is not None:
            self._body.end()

    def _refuse(self, error: ApiError) -> None:
        """Answers what no application sees, and closes the connection."""
        cycle = self.cycle
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.drop()
            return
        if cycle is not None and not cycle.response_complete:
            # its answer would come behind this one
            cycle.disconnected = True
            cycle.message_event.set()
        body = json.dumps(error.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        reason = STATUS_PHRASES[error.status]
        for event in (
            h11.Response(status_code=error.status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._until_taken()


def _parts(message: Message) -> Iterator[Message]:
    """Goes over a message of an answer in parts that are small enough to be buffered."""
    body = message.get("body", b"")
    if len(body) <= WRITE_BUFFER:
        yield message
        return
    for at in range(0, len(body), WRITE_BUFFER):
        more = at + WRITE_BUFFER < len(body) or message.get("more_body", False)
        yield {**message, "body": body[at : at + WRITE_BUFFER], "more_body": more}
