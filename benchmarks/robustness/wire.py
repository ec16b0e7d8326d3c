"""HTTP/1.1 by hand over asyncio: requests that no client library would send, replies as they came."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

CHAT: Final = "/v1/chat/completions"
PLAIN: Final = "/v1/completions"
HOST: Final = "127.0.0.1"
_JSON: Final = "application/json"
_LINE: Final = 1 << 24
"""bytes of the longest line that is read, which is an event of a stream"""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; status 0: the connection ended, or the time was over, before one came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    whole: bool = True
    """False where the connection ended in the middle of the body"""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Returns the body as JSON. Raises ValueError."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of a body in OpenAI's shape; None where it has another shape."""
        try:
            told = self.json()
        except ValueError:
            return None
        found = told.get("error") if isinstance(told, dict) else None
        shape = {"message", "type", "param", "code"}
        return found if isinstance(found, dict) and set(found) == shape else None


def encoded(body: Any) -> bytes:
    """Returns bytes as they are, None as nothing, and anything else as JSON."""
    if body is None or isinstance(body, bytes):
        return body or b""
    return json.dumps(body).encode()


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Returns the head of a request with its empty line."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request_bytes(
    method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """Returns a whole request; its connection ends behind the reply."""
    data = encoded(body)
    known = {"connection": "close"} | ({"content-length": str(len(data))} if body is not None else {})
    if body is not None:
        known["content-type"] = _JSON
    known.update({name.lower(): value for name, value in (headers or {}).items()})
    return head(method, path, known) + data


@asynccontextmanager
async def connected(
    port: int, limit: int = _LINE
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connects, and aborts the connection at the end; ``limit``: bytes that are read ahead, about."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    raw: bytes | None = None,
    seconds: float = 60.0,
) -> Reply:
    """Sends a request, or the bytes ``raw``, and returns the reply, which may come before all was sent."""
    data = request_bytes(method, path, body, headers) if raw is None else raw
    begin, loop = time.monotonic(), asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE)
    with socket.socket() as sock:
        sock.setblocking(False)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(sock, (HOST, port))
                # apart from each other: a server that refuses early resets while we still send, and a
                # transport would drop the answer that has come
                tasks += [asyncio.create_task(_send(sock, data)), asyncio.create_task(_receive(sock, reader))]
                return await read_reply(reader, begin)
        except (OSError, TimeoutError):
            return Reply(0, seconds=time.monotonic() - begin)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)


async def _send(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def _receive(sock: socket.socket, reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            reader.feed_data(data)
    reader.feed_eof()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Reads a status line and the headers; status 0 where the connection ended before them."""
    line = await reader.readline()
    parts = line.split()
    if len(parts) < 2:
        return 0, {}
    headers = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(parts[1]), headers


async def read_reply(reader: asyncio.StreamReader, begin: float) -> Reply:
    """Reads a reply to its end."""
    status, headers = await read_head(reader)
    body, whole = b"", True
    try:
        if headers.get("transfer-encoding") == "chunked":
            parts = [part async for part in chunks(reader)]
            body = b"".join(parts)
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
    except asyncio.IncompleteReadError as error:
        body, whole = error.partial, False
    return Reply(status, headers, body, time.monotonic() - begin, whole)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yields the chunks of a body. Raises IncompleteReadError where the connection ends before the last."""
    while True:
        size = await reader.readline()
        if not size:
            raise asyncio.IncompleteReadError(b"", None)
        if not (length := int(size, 16)):
            await reader.readline()
            return
        yield await reader.readexactly(length)
        await reader.readexactly(2)


async def events(
    port: int, body: dict[str, Any], path: str = CHAT, headers: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, Any] | None]:
    """Yields the events of a stream as they arrive, and None for ``[DONE]``.

    A refusal is yielded as one event with ``status`` and ``error``.
    """
    data = request_bytes("POST", path, {**body, "stream": True}, headers)
    async with connected(port) as (reader, writer):
        writer.write(data)
        status, told = await read_head(reader)
        if status != 200:
            reply = await reader.readexactly(int(told.get("content-length", "0"))) if status else b"{}"
            yield {"status": status, **json.loads(reply)}
            return
        rest = b""
        async for chunk in chunks(reader):
            *whole, rest = (rest + chunk).split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):
                    yield None if event == b"data: [DONE]" else json.loads(event[6:])
