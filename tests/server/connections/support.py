"""A server on a real socket, whose connections the tests can look at, and bare clients of it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from entropick_server.serve import DrainingServer, build_server
from entropick_server.settings import Settings

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
BIG = b"0123456789abcdef" * (20 << 16)
"""20 MiB, the answer of GET /big"""
Port = int
_OPEN: list[Peer | socket.socket] = []
"""the clients of the server that listens"""


@asynccontextmanager
async def listening(engine: Any, **given: Any) -> AsyncIterator[tuple[DrainingServer, Port]]:
    """A server around ``engine`` and its port; whatever its app has, and GET /big."""
    server = build_server(engine, Settings(**{"port": 0, "log_level": "critical", **given}))
    app = server.config.app
    assert isinstance(app, FastAPI)

    @app.get("/big")
    async def big(size: int = len(BIG)) -> Response:
        return Response(BIG[:size], media_type="text/plain")

    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started or not engine.ready:
            await asyncio.sleep(0.01)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        for peer in _OPEN:
            peer.close()
        _OPEN.clear()
        server.should_exit = True
        await asyncio.wait_for(task, 20)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Peer:
    """A client of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(
        cls, port: int, sent: bytes = b"", *, tls: ssl.SSLContext | None = None, limit: int = 1 << 16
    ) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=limit))
        _OPEN.append(peer)
        peer.writer.write(sent)
        return peer

    async def rest(self, seconds: float = 60) -> bytes:
        """All that still comes; b"" also where the connection was reset."""
        try:
            return await asyncio.wait_for(self.reader.read(), seconds)
        except ConnectionError:
            return b""

    async def answer(self, seconds: float = 60) -> tuple[int, bytes]:
        """Status and body of an answer with a length."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-l")
            )
            return int(head.split()[1]), await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.transport.abort()


def request(path: str = "/health", body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    """The bytes of a request, whose body may say that it is longer than it is."""
    lines = [f"{'POST' if body or length is not None else 'GET'} {path} HTTP/1.1", "Host: x"]
    if body or length is not None:
        lines += [
            "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}",
        ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(**fields: Any) -> bytes:
    return request(CHAT, json.dumps({**BODY, **fields}).encode())


async def ask(port: int, sent: bytes | None = None) -> tuple[int, bytes]:
    """Status and body that a client of its own gets."""
    peer = await Peer.to(port, request() if sent is None else sent)
    try:
        return await peer.answer()
    finally:
        peer.close()


def code_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


def stalled(port: int, sent: bytes) -> socket.socket:
    """A client that asks and then reads nothing, with little room in its own system."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reader.connect(("127.0.0.1", port))
    _OPEN.append(reader)
    reader.sendall(sent)
    return reader
