"""Figures of the workers' tokens on their way to the server: one message a step, and a store to ask later.

ZeroMQ carries the messages (PUSH in the worker that draws, PULL in the server); nothing waits for a slow or
absent reader. Every row has a key and a position. What was sent is kept for a while in the worker, so that a
lost message can be made up for by a call. Knows nothing of vLLM.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import struct
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

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


class Mark(NamedTuple):
    """A row's name, and what the packed figures do not say of its token."""

    key: str
    position: int
    forced: bool
    inserted: bool
    tops: tuple[tuple[int, float], ...] = ()
    detail: Mapping[str, Any] | None = None
    """entropy, scores [layers][heads], per_layer [layers][6]"""


class Figures(NamedTuple):
    """A row as the server gets it."""

    mark: Mark
    row: TokenRow


def encode(marks: Sequence[Mark], packed: Tensor, candidates: int) -> list[bytes]:
    """One message of rows, in one part; ``packed``: float64 [B, C] on the host, ``StepResult.pack``.

    B, C, ``candidates`` and the size of the keys as int64; position, forced and inserted as int64 [B, 3];
    ``packed``; JSON of the keys; JSON of the rows' ``tops`` and ``detail`` where there are any.
    """
    rows, columns = packed.shape
    keys = _keys_as_json(tuple([mark.key for mark in marks]))
    numbers = [rows, columns, candidates, len(keys)]
    for mark in marks:
        numbers += mark[1:4]
    more = b""
    if any(mark.tops or mark.detail for mark in marks):
        more = json.dumps([[mark.tops, mark.detail] for mark in marks]).encode()
    lines = packed.contiguous().numpy().tobytes()
    return [b"".join((struct.pack(f"<{len(numbers)}q", *numbers), lines, keys, more))]


def decode(message: Sequence[bytes]) -> list[Figures]:
    """The rows of a message; raises ValueError where it is not one."""
    try:
        (data,) = message
        rows, columns, candidates, size = struct.unpack_from("<4q", data)
        numbers = struct.unpack_from(f"<{3 * rows}q", data, 32)
        lines = 32 + 24 * rows
        end = lines + 8 * rows * columns
        packed = torch.frombuffer(bytearray(data[lines:end]), dtype=torch.float64).view(rows, columns)
        keys, more = _keys_of_json(data[end : end + size]), data[end + size :]
        forced, inserted = map(bool, numbers[1::3]), map(bool, numbers[2::3])
        if len(keys) != rows:
            raise ValueError(f"{len(keys)} keys for {rows} rows")
        marks = list(map(Mark, keys, numbers[::3], forced, inserted))
        if more:
            marks = [
                mark._replace(tops=tuple((i, p) for i, p in tops), detail=detail)
                for mark, (tops, detail) in zip(marks, json.loads(more), strict=True)
            ]
        return list(map(Figures, marks, unpack(packed, candidates)))
    except (ValueError, TypeError, KeyError, RuntimeError, IndexError, struct.error) as error:
        raise ValueError(f"not a message of this side channel: {error}") from error


# the rows of a step are mostly those of the step before
@functools.lru_cache(maxsize=16)
def _keys_as_json(keys: tuple[str, ...]) -> bytes:
    return json.dumps(keys).encode()


@functools.lru_cache(maxsize=16)
def _keys_of_json(text: bytes) -> tuple[str, ...]:
    return tuple(json.loads(text))


class Outbox:
    """The worker's end: sends without waiting, and keeps what it sent within a bound."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _UNREAD)
        self._socket.connect(address)
        # messages, the newest last, with the number of the first; the keys of the rows in each
        self._kept: deque[tuple[tuple[str, ...], list[bytes]]] = deque()
        self._first = 0
        self._size = 0
        # the number of the first message that may hold rows of a key; keys that came together last are last
        self._begins: OrderedDict[str, int] = OrderedDict()
        self._keys: tuple[str, ...] = ()

    def send(self, marks: Sequence[Mark], packed: Tensor, candidates: int) -> None:
        """Send the rows of a step, one for each mark."""
        message = encode(marks, packed, candidates)
        try:
            self._socket.send(message[0], zmq.NOBLOCK)
        except zmq.Again:
            _log.debug("the side channel is full or cut; the rows of a step wait to be asked for")
        keys = tuple([mark.key for mark in marks])
        if keys != self._keys:
            self._note(keys)
        self._kept.append((keys, message))
        self._size += _bytes(message)
        while self._size > _KEPT_BYTES:
            self._size -= _bytes(self._kept.popleft()[1])
            self._first += 1

    def _note(self, keys: tuple[str, ...]) -> None:
        """Other rows than in the last step: they have messages from the next one on."""
        number = self._first + len(self._kept)
        for key in keys:
            self._begins.setdefault(key, number)
            self._begins.move_to_end(key)
        while len(self._begins) > _KEPT_KEYS:
            self._begins.popitem(last=False)
        self._keys = keys

    def take(self, key: str) -> list[list[bytes]]:
        """The messages with a key's rows that are still here, rows of others among them; once."""
        begin = self._begins.pop(key, None)
        if begin is None:
            return []
        self._keys = ()  # the next step notes it anew
        held = itertools.islice(self._kept, max(0, begin - self._first), None)
        return [message for keys, message in held if key in keys]

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
