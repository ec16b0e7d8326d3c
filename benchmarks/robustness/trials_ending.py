"""Trials of the end: a drain with a large answer, SIGTERM in mid-stream, limits of time."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any, Final

from .rows_server import LONG, SERVER_ROWS
from .served import Served
from .trial import Result, milliseconds, trial
from .wire import CHAT, connected, read_head, request_bytes

_GROUP: Final = "The end"
_LARGE: Final[dict[str, Any]] = {
    **LONG,
    "n": 4,
    "max_tokens": 900,
    "entropick": {"telemetry": "full"},
}
"""a request whose answer has about 20 MB"""


async def _drained(drain: float, megabytes_a_second: float) -> tuple[int, int, int | None, float]:
    """Reads a large answer slowly, and sends SIGTERM when it has begun.

    Returns the bytes that were declared, the bytes that came, the exit code and the seconds it took.
    """
    async with Served("--drain-seconds", str(drain)) as served:
        await served.good()
        got, piece = 0, 1 << 16
        async with connected(served.port, piece) as (reader, writer):
            writer.write(request_bytes("POST", CHAT, _LARGE))
            _, headers = await asyncio.wait_for(read_head(reader), 300)
            declared = int(headers.get("content-length", "0"))
            begin = time.monotonic()
            served.signal(signal.SIGTERM)
            try:
                while data := await reader.read(piece):
                    got += len(data)
                    await asyncio.sleep(len(data) / (megabytes_a_second * 1e6))
            except OSError:
                pass
        code = await served.ended(drain + 20)
        return declared, got, code, time.monotonic() - begin


@trial(
    "drain-large-answer",
    _GROUP,
    "SIGTERM while a finished answer of 20 MB is read at 1.5 MB/s, `drain_seconds` 30",
    "cut after 8 s, exit code 0",
)
async def delivered() -> Result:
    declared, got, code, seconds = await _drained(30, 1.5)
    whole = f"{got / 1e6:.1f} of {declared / 1e6:.1f} MB" if declared else f"{got / 1e6:.1f} MB"
    figures = f"{whole} delivered in {seconds:.0f} s, exit code {code}"
    return Result(figures, got >= declared > 1_000_000 and code == 0)


@trial(
    "drain-too-short",
    _GROUP,
    "the same where the reader needs longer than `drain_seconds` 4",
    "cut, exit code 0",
)
async def cut() -> Result:
    declared, got, code, seconds = await _drained(4, 0.5)
    figures = (
        f"{got / 1e6:.1f} of {declared / 1e6:.1f} MB delivered, ended after {seconds:.0f} s, exit code {code}"
    )
    return Result(figures, got < declared and code is not None and code > 0 and seconds < 24)


@trial("sigterm-mid-stream", _GROUP, "SIGTERM in mid-stream", "held; kept")
async def mid_stream() -> Result:
    row = next(row for row in SERVER_ROWS if row.number == 41)
    async with Served(*row.server) as served:
        await served.good()
        begin = time.monotonic()
        seen = await row.cases[0].send(served)
    return Result(f"{seen.body}, {milliseconds(time.monotonic() - begin)} in all", seen.held)


@trial("request-time-limit", _GROUP, "a request beyond `request_timeout_seconds` 1", "no such limit")
async def time_limit() -> Result:
    async with Served("--request-timeout-seconds", "1") as served:
        await served.good()
        body = {**LONG, "n": 16, "max_tokens": 900}
        replies = [await served.ask("POST", CHAT, body, seconds=60) for _ in range(2)]
        stream = await served.ask("POST", CHAT, {**body, "stream": True}, seconds=60)
        idle = await served.idle()
        slowest = max(reply.seconds for reply in (*replies, stream))
        figures = (
            f"{replies[0].status} after {milliseconds(slowest)}; a stream ends "
            f"{'with an error' if chr(34) + 'error' + chr(34) in stream.text else 'without an error'}; "
            f"{'every block is free' if idle else 'blocks stay in use'}"
        )
        held = slowest < 10 and idle and await served.good()
        return Result(figures, held)


ENDING: Final = (delivered, cut, mid_stream, time_limit)
"""the trials of this module"""
