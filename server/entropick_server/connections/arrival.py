"""A connection before its first request: nothing is built for it until the head of that is whole.

Most that a stranger can hold open costs a socket and a few bytes then, and neither a slow head nor its end
reaches the HTTP parser.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from ..protocol.errors import ApiError
from .table import ConnectionTable, Phase

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: what the system buffers is dropped at the close"""
_MOST: Final = 1 << 14
"""bytes without a whole head behind which the parser shall refuse them"""
_READ: Final = 1 << 16
_FIRST_PRINTED: Final = 0x21


def refusal(error: ApiError) -> bytes:
    """Returns an answer of HTTP that ends its connection, in bytes."""
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        **{name.lower(): value for name, value in error.headers.items()},
        "connection": "close",
        "content-length": str(len(body)),
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


TOO_SLOW: Final = ApiError(408, "The head of the request came too slowly.", code="header_timeout")
_TOO_SLOW: Final = refusal(TOO_SLOW)


class Arrival:
    """An accepted connection for which no protocol is there yet, as the table of connections holds it."""

    def __init__(
        self, accepted: socket.socket, table: ConnectionTable, build: Callable[[Arrival], None]
    ) -> None:
        """Takes a socket. ``build``: makes its protocol, which takes ``received``."""
        self.phase: Phase | None = None
        self.since = self.began = 0.0
        self.accepted = accepted
        self.received = bytearray()
        """bytes of the first request that have come"""
        self.task: asyncio.Task[None] | None = None
        """the building of its protocol, over TLS with the handshake"""
        self._table = table
        self._build = build
        self._loop = asyncio.get_running_loop()

    def wait(self) -> None:
        """Reads until the head of a request is whole."""
        self._table.move(self, Phase.HEADERS)
        # for most clients it is here already
        if self._read():
            return
        self._loop.add_reader(self.accepted, self._read)

    def expire(self) -> None:
        """Ends the connection, whose phase has lasted too long."""
        if self.task is None and self.received:
            self._table.notes.count("closed, whose head was not whole in time")
            with suppress(OSError):
                self.accepted.send(_TOO_SLOW)
            self._close()
        else:
            # without a request: an answer to none would be read as one to the next
            self.drop()

    def drop(self) -> None:
        """Closes the connection at once."""
        if self.task is not None:
            self.task.cancel()
            return
        with suppress(OSError):
            self.accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._close()

    def _read(self) -> bool:
        """Takes bytes that have come. Returns whether nothing more is to be read here."""
        try:
            data = self.accepted.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return True
        begin = max(0, len(self.received) - 3)
        self.received += data
        if not self._whole(begin):
            return False
        self._loop.remove_reader(self.accepted)
        self._build(self)
        return True

    def _whole(self, begin: int) -> bool:
        """Tells whether the parser shall have the bytes: a head that has its end, or can never be one.

        ``begin``: where its end can stand.
        """
        got = self.received
        ended = got.find(b"\n\r\n", begin) >= 0 or got.find(b"\n\n", begin) >= 0
        return ended or got[0] < _FIRST_PRINTED or len(got) > _MOST

    def _close(self) -> None:
        self._loop.remove_reader(self.accepted)
        self._table.discard(self)
        self.accepted.close()
