"""The listening sockets: each new connection is counted before anything is built for it.

asyncio's own listener accepts whatever there is, and logs a traceback for each accept that fails.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..protocol.errors import unavailable
from ..settings import SettingsError
from .arrival import Arrival, refusal
from .table import ConnectionTable, Phase

_AT_ONCE: Final = 32
"""connections accepted before the loop does other things"""
_RETRY_SECONDS: Final = 0.05
"""without a free descriptor"""
_SHUTDOWN_SECONDS: Final = 5.0
"""for a client to take part in the end of TLS"""
_UNSENT_BYTES: Final = 1 << 17
"""bytes of one connection that the system buffers before they are on their way"""
_log = logging.getLogger(__name__)
Factory = Callable[[Arrival], asyncio.Protocol]


async def bind(host: str, port: int) -> list[socket.socket]:
    """Returns a socket for each address of ``host``, bound but not listening. Raises SettingsError."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(found):
            bound = socket.socket(family, kind, proto)
            sockets.append(bound)
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise SettingsError(f"the server cannot listen on {host}:{port}: {error}") from error
    return sockets


class Listener:
    """The listening sockets of a server, which takes the place of asyncio's."""

    def __init__(
        self,
        sockets: list[socket.socket],
        factory: Factory,
        table: ConnectionTable,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self.sockets = sockets
        self._factory = factory
        self._table = table
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._refusal = refusal(
            unavailable("The server has too many connections.", "too_many_connections", 5)
        )

    def start(self, backlog: int) -> None:
        """Listens; ``backlog``: connections that the system holds until they are accepted."""
        for listening in self.sockets:
            listening.listen(backlog)
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Closes the listening sockets. Connections that were accepted stay."""
        for listening in self.sockets:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening)
                listening.close()
        for handle in self._paused.values():
            handle.cancel()
        self._paused.clear()

    async def wait_closed(self) -> None:
        """Returns at once: nothing runs behind close."""

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(listening, error)
                return
            accepted.setblocking(False)
            if self._table.make_room():
                self._open(accepted)
            else:
                self._refuse(accepted)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Accepts nothing for a moment, because a descriptor or memory is missing."""
        self._table.notes.count(f"not accepted: {error.strerror}")
        # room for all that are accepted next: their predecessors' descriptors are free one step later
        self._table.give_up(2 * _AT_ONCE)
        self._loop.remove_reader(listening)
        self._paused[listening] = self._loop.call_later(_RETRY_SECONDS, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._paused[listening]
        self._loop.add_reader(listening, self._accept, listening)

    def _refuse(self, accepted: socket.socket) -> None:
        """Answers 503 as far as that takes no time; over TLS nothing can be said without a handshake."""
        with accepted, suppress(OSError):
            if self._tls is None:
                accepted.send(self._refusal)
                accepted.shutdown(socket.SHUT_WR)
                # unread bytes would make the system reset the connection
                accepted.recv(1 << 16)

    def _open(self, accepted: socket.socket) -> None:
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # else the system buffers megabytes for a client that does not read
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        arrival = Arrival(accepted, self._table, self._build)
        if self._tls is None:
            arrival.wait()
        else:
            self._table.move(arrival, Phase.ARRIVING)
            self._build(arrival)

    def _build(self, arrival: Arrival) -> None:
        """Begins to make the protocol of a connection."""
        begun = False

        async def connect() -> None:
            nonlocal begun
            begun = True
            tls = self._tls is not None
            await self._loop.connect_accepted_socket(
                lambda: self._factory(arrival),
                arrival.accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds if tls else None,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS if tls else None,
            )

        def ended(task: asyncio.Task[None]) -> None:
            self._table.discard(arrival)
            if not begun:
                # it was cancelled before its first step; afterwards its transport closes it
                arrival.accepted.close()
            if not task.cancelled() and (error := task.exception()) is not None:
                if isinstance(error, OSError):
                    _log.debug("a connection ended while it was opened: %s", error)
                else:
                    _log.error("a connection could not be opened", exc_info=error)

        arrival.task = self._loop.create_task(connect())
        arrival.task.add_done_callback(ended)
