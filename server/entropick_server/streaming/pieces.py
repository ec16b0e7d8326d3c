"""JSON in pieces: long lists are made and written a few items at a time, and answers are sent piece by piece.

Nothing here holds the interpreter for long: a piece is written in about a millisecond, so a thread that
writes a large answer lets the event loop go on, and between two pieces that are sent others get their turns.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE: Final = 1 << 16
"""bytes of a piece; the last part of one may reach beyond"""
ROWS: Final = 16
"""rows of tokens that are written at once"""
NUMBERS: Final = 1 << 12
"""numbers or names that are written at once"""
_ANY: Final = TypeAdapter[Any](Any)
Item = TypeVar("Item")


def slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields a list in stretches of at most ``size`` items."""
    return (items[at : at + size] for at in range(0, len(items), size))


class JsonWriter:
    """A writer of one JSON document whose long lists are made while they are written.

    A list stands in its model as a mark, which no text can hold by chance, until its turn comes.
    """

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        self._mark = mark
        self._pattern = re.compile(rb'"' + mark.encode() + rb'-(\d+)"')
        self._later: dict[int, Iterable[Sequence[Any]]] = {}
        self._number = 0

    def later(self, stretches: Iterable[Sequence[Any]]) -> Any:
        """Returns the mark of a list, for the place of the list in a model that is written here.

        ``stretches``: the list's items, some at once; they are asked for when the list is written.
        """
        self._number += 1
        self._later[self._number] = stretches
        return f"{self._mark}-{self._number}"

    def pieces(self, value: Any) -> Iterator[bytes]:
        """Yields the JSON of a model, a dictionary or a list, in pieces of about ``PIECE`` bytes."""
        parts, size = list[bytes](), 0
        for part in self._parts(dumped(value)):
            parts.append(part)
            size += len(part)
            if size >= PIECE:
                yield b"".join(parts)
                parts.clear()
                size = 0
        if parts:
            yield b"".join(parts)

    def _parts(self, data: bytes) -> Iterator[bytes]:
        """Yields JSON with each mark's list in the place of the mark."""
        for at, part in enumerate(self._pattern.split(data)):
            if at % 2:
                yield from self._list(self._later.pop(int(part)))
            elif part:
                yield part

    def _list(self, stretches: Iterable[Sequence[Any]]) -> Iterator[bytes]:
        begin = b"["
        for items in stretches:
            if items:
                yield begin
                yield from self._parts(dumped(items)[1:-1])
                begin = b","
        yield b"[]" if begin == b"[" else b"]"


def dumped(value: Any) -> bytes:
    """Returns a value as JSON; of a model, the fields that were given."""
    # a mark stands where a list is expected
    return _ANY.dump_json(value, exclude_unset=True, warnings=False)


class PieceResponse(Response):
    """An answer that is sent in pieces, between which other clients get their turns.

    How long a client may leave a piece unread is the connection's to bound.
    """

    media_type = "application/json"

    def __init__(
        self, pieces: Sequence[bytes], media_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        self._pieces = pieces
        self.headers["content-length"] = str(sum(map(len, pieces)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            for at in range(0, len(piece), 2 * PIECE):
                body = piece[at : at + 2 * PIECE]
                await send({"type": "http.response.body", "body": body, "more_body": True})
                # a client that reads as fast as it is written to would keep the loop
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
