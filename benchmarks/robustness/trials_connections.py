"""Trials of connections: many idle ones, bodies that never end, clients that leave or do not read."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from contextlib import ExitStack
from typing import Any, Final

from .rows_bodies import SLOW
from .rows_server import LONG, gone, unread
from .served import GOOD, Served
from .trial import Result, milliseconds, trial
from .wire import CHAT, HOST, connected, head

_GROUP: Final = "Connections"
_BODY: Final = 4 << 20
_KEPT: Final = 256.0
"""MiB that a server may grow by under 100 half-sent bodies, or stalled readers"""


def opened(stack: ExitStack, port: int, count: int, send: bytes = b"") -> int:
    """Opens connections, each with ``send`` written to it, which stay until ``stack`` is closed; how many
    were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 200), hard))
    made = 0
    for _ in range(count):
        sock = stack.enter_context(socket.socket())
        sock.settimeout(1.0)
        try:
            sock.connect((HOST, port))
            sock.sendall(send)
        except OSError:
            continue
        made += 1
    return made


async def asked(served: Served, seconds: float, every: float = 0.5) -> list[float | None]:
    """Asks the good request again and again; the seconds of each, None where it was not served."""
    times: list[float | None] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reply = await served.ask("POST", CHAT, GOOD, seconds=5)
        times.append(reply.seconds if reply.status == 200 else None)
        await asyncio.sleep(every)
    return times


async def _held_open(send: bytes, seconds: float) -> Result:
    async with Served(descriptors=1024) as served:
        await served.good()
        log = served.log_size()
        with ExitStack() as stack:
            made = await asyncio.to_thread(opened, stack, served.port, 1100, send)
            times = await asked(served, seconds)
            kilobytes = (served.log_size() - log) / 1000
        done = [t for t in times if t is not None]
        after = await served.good()
        figures = (
            f"{made} connections; {len(done)} of {len(times)} requests of others served, the slowest in "
            f"{milliseconds(max(done, default=float('nan')))}; {kilobytes:.0f} kB of log in {seconds:.0f} s"
        )
        return Result(figures, len(done) == len(times) and after and kilobytes < 1000)


@trial(
    "idle-sockets",
    _GROUP,
    "1,100 idle sockets without a key, `ulimit -n` 1,024",
    "no client was served as long as they stayed; 160 MB of tracebacks in 40 s",
)
async def idle_sockets() -> Result:
    return await _held_open(b"", 15)


@trial(
    "half-headers",
    _GROUP,
    "1,100 sockets with half a request line, `ulimit -n` 1,024",
    "as above",
)
async def half_headers() -> Result:
    return await _held_open(b"GET / HT", 15)


@trial(
    "half-sent-bodies",
    _GROUP,
    "100 bodies of 4 MB, the last byte never sent",
    "312 MB held, without a deadline",
)
async def half_sent_bodies() -> Result:
    begin = head("POST", CHAT, {"Content-Type": "application/json", "Content-Length": str(_BODY)})

    async with Served(*SLOW) as served:
        await served.good()
        before = served.resident_mib()

        async def half() -> None:
            try:
                async with asyncio.timeout(20), connected(served.port) as (reader, writer):
                    writer.write(begin + b" " * (_BODY - 1))
                    await asyncio.wait_for(reader.read(), 20)
            except (OSError, TimeoutError):
                return

        sending = asyncio.gather(*(half() for _ in range(100)))
        most, left, start = before, -1.0, time.monotonic()
        while not sending.done():
            await asyncio.sleep(0.1)
            most = max(most, served.resident_mib())
            if left < 0 and served.connections() == 0 and time.monotonic() - start > 1:
                left = time.monotonic() - start
        await sending
        fine = await served.good()
        figures = (
            f"{most - before:.0f} MiB at most, {served.resident_mib() - before:.0f} MiB afterwards; "
            f"every connection was closed after {time.monotonic() - start if left < 0 else left:.0f} s"
        )
        return Result(figures, most - before < _KEPT and 0 <= left < 15 and fine)


@trial(
    "close-in-mid-body", _GROUP, "a client closes in the middle of its body", "a traceback of 4 kB in the log"
)
async def close_in_mid_body() -> Result:
    begin = head("POST", CHAT, {"Content-Type": "application/json", "Content-Length": "1000"})
    async with Served() as served:
        await served.good()
        log = served.log_size()
        for _ in range(10):
            async with connected(served.port) as (_reader, writer):
                writer.write(begin + b'{"messages": [')
                await writer.drain()
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        written = served.log()[log:]
        lines = len(written.splitlines())
        figures = f"{lines} lines, {len(written)} bytes of log for 10 such clients"
        return Result(figures, lines <= 20 and "Traceback" not in written and await served.good())


async def _stalled(body: dict[str, Any], count: int, ready: float) -> Result:
    async with Served("--write-timeout-seconds", "2") as served:
        await served.good()
        before = served.resident_mib()
        readers = [unread(served, body) for _ in range(count)]
        try:
            await asyncio.sleep(ready)
            most, end = served.resident_mib(), time.monotonic() + 90
            while served.connections() and time.monotonic() < end:
                await asyncio.sleep(0.2)
                most = max(most, served.resident_mib())
            left = served.connections()
            closed = await gone(served, 0, 1)
        finally:
            for reader in readers:
                reader.close()
        idle = await served.idle()
        figures = (
            f"{left} of {count} sockets left; {most - before:.0f} MiB at most, "
            f"{served.resident_mib() - before:.0f} MiB afterwards"
        )
        return Result(figures, closed and idle and most - before < _KEPT and await served.good())


@trial(
    "stalled-streams",
    _GROUP,
    "8 streams with telemetry `full` that nobody reads, `write_timeout_seconds` 2",
    "generation was cancelled, the sockets stayed: 2.8 MB each after 75 s",
)
async def stalled_streams() -> Result:
    return await _stalled({**LONG, "n": 4, "stream": True, "entropick": {"telemetry": "full"}}, 8, 1.0)


@trial(
    "stalled-answers",
    _GROUP,
    "4 plain answers of some MB that nobody reads, `write_timeout_seconds` 2",
    "no deadline: they stayed",
)
async def stalled_answers() -> Result:
    return await _stalled({**LONG, "n": 2, "entropick": {"telemetry": "full"}}, 4, 1.0)


CONNECTIONS: Final = (
    idle_sockets,
    half_headers,
    half_sent_bodies,
    close_in_mid_body,
    stalled_streams,
    stalled_answers,
)
"""the trials of this module"""
