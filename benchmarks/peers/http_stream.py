"""A light HTTP client for streamed completions: the load shares the processors with what it measures."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

_TEXT = (b'"text":', b'"delta":')


class StreamError(RuntimeError):
    """An answer that is not a whole stream."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer. Times are of time.perf_counter."""

    sent: float
    events: list[float]
    """when each event with text or tokens was read"""
    tokens: int
    """of the answer, as the server counts them"""


async def complete(host: str, port: int, body: dict[str, object], timeout: float = 300) -> Streamed:
    """POST /v1/completions with ``stream`` and read the events. Raises StreamError, OSError, TimeoutError."""
    async with asyncio.timeout(timeout):
        return await _complete(host, port, body)


async def _complete(host: str, port: int, body: dict[str, object]) -> Streamed:
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    sent = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head.encode() + payload)
        status = await reader.readline()
        if b" 200 " not in status:
            raise StreamError((status + await reader.read(2000)).decode(errors="replace"))
        events: list[float] = []
        last = b""
        # chunk sizes stand on lines of their own, so the lines can be read through the chunks
        async for line in reader:
            if not line.startswith(b"data:"):
                continue
            if b"[DONE]" in line:
                break
            last = line
            if any(key in line for key in _TEXT):
                events.append(time.perf_counter())
        usage = json.loads(last[5:]).get("usage") if last else None
        if not usage:
            raise StreamError(f"the stream ended without usage: {last[:300].decode(errors='replace')}")
        return Streamed(sent, events, usage["completion_tokens"])
    finally:
        writer.close()
