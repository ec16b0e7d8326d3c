"""Figures of the workers' tokens on their way to the server: one message a step, and a store to ask later.

ZeroMQ carries the messages (PUSH in the worker that draws, PULL in the server); nothing waits for a slow or
absent reader. Every row has a key and a position. What was sent is kept for a while in the worker, so that a
lost message can be made up for by a call. Knows nothing of vLLM.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import zmq
import zmq.asyncio
from torch import Tensor

from entropick_sampler.packed import TokenRow, unpack

_log = logging.getLogger(__name__)
_KEPT_BYTES: Final = 16 << 20
"""bytes of messages that a worker keeps for those who ask"""
_KEPT_KEYS: Final = 4096
"""rows whose messages it can find"""
_UNREAD: Final = 4096
"""messages that may wait for the server; further ones are dropped"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A row's name, and what the packed figures do not say of its token."""

    key: str
    position: int
    forced: bool
    inserted: bool
    tops: tuple[tuple[int, float], ...] = ()
    detail: Mapping[str, Any] | None = None
    """entropy, scores [layers][heads], per_layer [layers][6]"""

    def plain(self) -> list[Any]:
        """For JSON."""
        return [self.key, self.position, self.forced, self.inserted, self.tops, self.detail]


@dataclass(frozen=True, slots=True)
class Figures:
    """A row as the server gets it."""

    mark: Mark
    row: TokenRow


def encode(marks: Sequence[Mark], packed: Tensor, candidates: int) -> list[bytes]:
    """One message of rows; ``packed``: float64 [B, C] on the host, ``StepResult.pack``."""
    head = {"rows": [m.plain() for m in marks], "columns": packed.shape[1], "candidates": candidates}
    return [json.dumps(head).encode(), packed.contiguous().numpy().tobytes()]


def decode(message: Sequence[bytes]) -> list[Figures]:
    """The rows of a message; raises ValueError where it is not one."""
    try:
        head, data = message
        told = json.loads(head)
        packed = torch.frombuffer(bytearray(data), dtype=torch.float64).view(-1, told["columns"])
        marks = [
            Mark(key, position, forced, inserted, tuple((i, p) for i, p in tops), detail)
            for key, position, forced, inserted, tops, detail in told["rows"]
        ]
        return [Figures(m, row) for m, row in zip(marks, unpack(packed, told["candidates"]), strict=True)]
    except (ValueError, TypeError, KeyError, RuntimeError, IndexError) as error:
        raise ValueError(f"not a message of this side channel: {error}") from error


class Outbox:
    """The worker's end: sends without waiting, and keeps what it sent within a bound."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _UNREAD)
        self._socket.connect(address)
        # messages, the newest last, with the number of the first; which of them hold a key's rows
        self._kept: deque[tuple[bytes, ...]] = deque()
        self._first = 0
        self._size = 0
        self._spans: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def send(self, marks: Sequence[Mark], packed: Tensor, candidates: int) -> None:
        """Send the rows of a step, one for each mark."""
        message = tuple(encode(marks, packed, candidates))
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            _log.debug("the side channel is full or cut; the rows of a step wait to be asked for")
        number = self._first + len(self._kept)
        self._kept.append(message)
        self._size += _bytes(message)
        while self._size > _KEPT_BYTES:
            self._size -= _bytes(self._kept.popleft())
            self._first += 1
        for mark in marks:
            begin, _ = self._spans.pop(mark.key, (number, number))
            self._spans[mark.key] = begin, number + 1
        while len(self._spans) > _KEPT_KEYS:
            self._spans.popitem(last=False)

    def take(self, key: str) -> list[list[bytes]]:
        """The messages with a key's rows that are still here, rows of others among them; once."""
        begin, end = self._spans.pop(key, (0, 0))
        begin = max(begin, self._first)
        return [list(self._kept[number - self._first]) for number in range(begin, end)]

    def close(self) -> None:
        """Let the socket go."""
        self._context.destroy(linger=0)


def _bytes(message: Sequence[bytes]) -> int:
    return sum(map(len, message))


Ask = Callable[[str], Awaitable[list[list[bytes]]]]
"""fetch the rows of a key from the workers; may raise"""


class Inbox:
    """The server's end: rows by key and position, waited for within a limit.

    A row that does not come in time is asked for. If that helps, the channel counts as cut until the next
    message: later rows are asked for without waiting. If that fails too, the key goes without rows.
    """

    def __init__(self, address: str, ask: Ask, limit: float = 0.5) -> None:
        """``limit``: seconds to wait for a row whose token is there."""
        self._address = address
        self._ask = ask
        self._limit = limit
        self._rows: dict[str, dict[int, Figures]] = {}
        self._given_up: set[str] = set()
        self._news: dict[str, asyncio.Event] = {}
        self._cut = False
        self._context: zmq.asyncio.Context | None = None
        self._reader: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Listen; call it in the event loop. Raises zmq.ZMQError."""
        self._context = zmq.asyncio.Context()
        socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, _UNREAD)
        socket.bind(self._address)
        self._reader = asyncio.create_task(self._read(socket))

    async def close(self) -> None:
        """Stop listening. Harmless when called again."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            self._reader = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def expect(self, key: str) -> None:
        """Keep the rows of ``key`` from now on; rows of other keys are dropped."""
        self._rows[key] = {}
        self._news[key] = asyncio.Event()

    def forget(self, key: str) -> None:
        """Nobody will ask for ``key`` any more."""
        self._rows.pop(key, None)
        self._news.pop(key, None)
        self._given_up.discard(key)

    async def row(self, key: str, position: int) -> Figures | None:
        """The row of an expected key, None where it cannot be had."""
        if key not in self._rows:
            raise KeyError(key)
        if (found := self._rows[key].pop(position, None)) is not None:
            return found
        if key in self._given_up:
            return None
        if not self._cut and (found := await self._wait(key, position)) is not None:
            return found
        return await self._fetch(key, position)

    async def _wait(self, key: str, position: int) -> Figures | None:
        try:
            async with asyncio.timeout(self._limit):
                while (found := self._rows[key].pop(position, None)) is None:
                    self._news[key].clear()
                    await self._news[key].wait()
                return found
        except TimeoutError:
            return None

    async def _fetch(self, key: str, position: int) -> Figures | None:
        try:
            async with asyncio.timeout(4 * self._limit):
                for message in await self._ask(key):
                    self._take(decode(message))
        except Exception as error:  # noqa: BLE001 - whatever a call into the workers trips over: no row
            _log.warning("figures of a request are lost: %s", error or type(error).__name__)
        found = self._rows[key].pop(position, None)
        if found is None:
            self._given_up.add(key)
        elif not self._cut:
            self._cut = True
            _log.warning("the side channel is silent; figures are asked for until it speaks again")
        return found

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            message = await socket.recv_multipart()
            try:
                figures = decode(message)
            except ValueError as error:
                _log.warning("the side channel brought nonsense: %s", error)
                continue
            self._cut = False
            self._take(figures)

    def _take(self, figures: Sequence[Figures]) -> None:
        for row in figures:
            if row.mark.key in self._rows:
                self._rows[row.mark.key][row.mark.position] = row
                self._news[row.mark.key].set()
