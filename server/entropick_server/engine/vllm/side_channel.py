"""The figures of the workers' tokens on their way to the server: a message a step, and a store to ask later.

ZeroMQ carries the messages (PUSH in the worker that draws, PULL in the server); nothing waits for a slow or
absent reader. Every row has a key and a position. The worker keeps its messages for a while, so that a call
can make up for a lost one. Knows nothing of vLLM.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import struct
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import torch
import zmq
import zmq.asyncio
from torch import Tensor

from entropick_sampler.most_probable import ProbableToken
from entropick_sampler.packed import TokenRow, unpack

from ..base import EngineError
from ..tokens import AttentionDetail, HeadEntropies, TopLogprobs
from .heads_codec import HeadsReader, kind_of, parts_of

_log = logging.getLogger(__name__)
_STORE_BYTES: Final = 16 << 20
"""bytes of messages that a worker stores for the server to ask for"""
_STORE_KEYS: Final = 4096
"""keys whose messages it can find"""
_UNREAD: Final = 4096
"""messages that may wait for the server; further ones are dropped"""
FORCED: Final = 1
ONLY_CHOICE: Final = 2
"""bits of a row's mark"""


class Mark(NamedTuple):
    """The name of a row, and figures of its token that the packed columns do not hold."""

    key: str
    position: int
    forced: bool
    tops: TopLogprobs = ()
    detail: AttentionDetail | None = None
    probable: tuple[ProbableToken, ...] = ()
    heads: HeadEntropies | None = None
    """None where the request wants no genuineness"""
    only_choice: bool = False


class Figures(NamedTuple):
    """The mark and the packed figures of a row, as the server gets them."""

    mark: Mark
    row: TokenRow


def encode(marks: Sequence[Mark], packed: Tensor, candidates: int) -> list[bytes]:
    """Writes the message of a step, in one part; ``packed``: float64 [B, C] on the host, ``StepResult.pack``.

    B, C, ``candidates``, the size of the keys, L and H as int64; position, FORCED and ONLY_CHOICE as bits,
    and ``kind_of`` its ``heads`` as int64 [B, 3]; ``packed``; the ``heads`` of the rows that have them; JSON
    of the keys; JSON of the rows' ``tops``, ``detail`` and ``probable``, if any.
    """
    rows, columns = packed.shape
    keys = _keys_as_json(tuple([mark.key for mark in marks]))
    watched = [mark.heads for mark in marks if mark.heads is not None]
    shape = watched[0].entropy.shape if watched else (0, 0)
    numbers = [rows, columns, candidates, len(keys), *shape]
    for mark in marks:
        bits = FORCED * mark.forced | ONLY_CHOICE * mark.only_choice
        numbers += (mark.position, bits, kind_of(mark.heads))
    more = b""
    if any(mark.tops or mark.detail or mark.probable for mark in marks):
        more = json.dumps([[mark.tops, mark.detail, mark.probable] for mark in marks]).encode()
    lines = packed.contiguous().numpy().tobytes()
    figures = [figure.tobytes() for of_row in watched for figure in parts_of(of_row)]
    return [b"".join((struct.pack(f"<{len(numbers)}q", *numbers), lines, *figures, keys, more))]


def decode(message: Sequence[bytes]) -> list[Figures]:
    """Reads the rows of a message. Raises ValueError where it is no message of this channel."""
    try:
        (data,) = message
        rows, columns, candidates, size, layers, heads = struct.unpack_from("<6q", data)
        numbers = struct.unpack_from(f"<{3 * rows}q", data, 48)
        lines = 48 + 24 * rows
        end = lines + 8 * rows * columns
        reader = HeadsReader(data, end, layers, heads)
        watched = [reader.read(kind) for kind in numbers[2::3]]
        packed = torch.frombuffer(bytearray(data[lines:end]), dtype=torch.float64).view(rows, columns)
        keys, more = _keys_of_json(data[reader.at : reader.at + size]), data[reader.at + size :]
        if len(keys) != rows:
            raise ValueError(f"{len(keys)} keys for {rows} rows")
        marks = [
            Mark(key, position, bool(bits & FORCED), heads=of_row, only_choice=bool(bits & ONLY_CHOICE))
            for key, position, bits, of_row in zip(keys, numbers[::3], numbers[1::3], watched, strict=True)
        ]
        if more:
            marks = [
                mark._replace(
                    tops=tuple((i, p) for i, p in tops),
                    detail=detail and AttentionDetail(*detail),
                    probable=tuple(ProbableToken(*row) for row in probable),
                )
                for mark, (tops, detail, probable) in zip(marks, json.loads(more), strict=True)
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
    """The worker's end, which sends without waiting and keeps its messages within a bound."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _UNREAD)
        self._socket.connect(address)
        # messages, the newest last, with the number of the first; the keys of the rows in each
        self._store: deque[tuple[tuple[str, ...], list[bytes]]] = deque()
        self._first = 0
        self._size = 0
        # the number of the first message that may hold rows of a key; keys that came together last are last
        self._begins: OrderedDict[str, int] = OrderedDict()
        self._keys: tuple[str, ...] = ()

    def send(self, marks: Sequence[Mark], packed: Tensor, candidates: int) -> None:
        """Sends the rows of a step, as many as there are marks."""
        message = encode(marks, packed, candidates)
        try:
            self._socket.send(message[0], zmq.NOBLOCK)
        except zmq.Again:
            _log.debug("the side channel is full or cut; the rows of a step wait to be asked for")
        keys = tuple([mark.key for mark in marks])
        if keys != self._keys:
            self._note(keys)
        self._store.append((keys, message))
        self._size += _bytes(message)
        while self._size > _STORE_BYTES:
            self._size -= _bytes(self._store.popleft()[1])
            self._first += 1

    def _note(self, keys: tuple[str, ...]) -> None:
        """Notes that other rows than in the last step have messages from the next message on."""
        number = self._first + len(self._store)
        for key in keys:
            self._begins.setdefault(key, number)
            self._begins.move_to_end(key)
        while len(self._begins) > _STORE_KEYS:
            self._begins.popitem(last=False)
        self._keys = keys

    def take(self, key: str) -> list[list[bytes]]:
        """Returns the messages with a key's rows that are still here, rows of other keys among them, once."""
        begin = self._begins.pop(key, None)
        if begin is None:
            return []
        self._keys = ()  # the next step notes it anew
        held = itertools.islice(self._store, max(0, begin - self._first), None)
        return [message for keys, message in held if key in keys]

    def close(self) -> None:
        """Closes the socket and its context. Harmless when called again."""
        self._context.destroy(linger=0)


def _bytes(message: Sequence[bytes]) -> int:
    return sum(map(len, message))


Ask = Callable[[str], Awaitable[list[list[bytes]]]]
"""fetches the rows of a key from the workers; may raise EngineError"""


class Inbox:
    """The server's end: rows by key and position, for which it waits within a limit.

    A row that does not come in time is asked for. If that helps, the channel counts as cut until the next
    message: later rows are asked for without waiting. If that fails too, the key goes without rows.
    """

    def __init__(self, address: str, ask: Ask, limit: float = 0.5) -> None:
        """Prepares an inbox. ``limit``: seconds to wait for a row whose token is there."""
        self._address = address
        self._ask = ask
        self._limit = limit
        self._rows: dict[str, dict[int, Figures]] = {}
        self._given_up: set[str] = set()
        self._arrived: dict[str, asyncio.Event] = {}
        self._cut = False
        self._context: zmq.asyncio.Context | None = None
        self._reader: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Listens at the address. The caller must be in the event loop. Raises zmq.ZMQError."""
        self._context = zmq.asyncio.Context()
        socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, _UNREAD)
        socket.bind(self._address)
        self._reader = asyncio.create_task(self._read(socket))

    async def close(self) -> None:
        """Closes the socket and stops the reader. Harmless when called again."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            self._reader = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def expect(self, key: str) -> None:
        """Keeps the rows of ``key`` from now on; rows of other keys are dropped."""
        self._rows[key] = {}
        self._arrived[key] = asyncio.Event()

    def forget(self, key: str) -> None:
        """Drops the rows of ``key``, and the rows that are still on their way."""
        self._rows.pop(key, None)
        self._arrived.pop(key, None)
        self._given_up.discard(key)

    async def row(self, key: str, position: int) -> Figures | None:
        """Returns the row of an expected key, None where it cannot be had."""
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
                    self._arrived[key].clear()
                    await self._arrived[key].wait()
                return found
        except TimeoutError:
            return None

    async def _fetch(self, key: str, position: int) -> Figures | None:
        try:
            async with asyncio.timeout(4 * self._limit):
                for message in await self._ask(key):
                    self._take(decode(message))
        except (EngineError, TimeoutError, ValueError) as error:
            _log.warning("figures of a request are lost: %s", str(error) or type(error).__name__)
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
                self._arrived[row.mark.key].set()
