"""Rows about what comes before a field is read: bodies, headers, slow connections, ids."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from .cases import HELLO, Case, Row, Seen, refused, told
from .served import Served
from .wire import CHAT, HOST, PLAIN, connected, encoded, head, read_reply

_DEEP: Final = 10_000
_CAP: Final = 65_536
_GOOD: Final = encoded({"messages": HELLO, "max_tokens": 4})
SLOW: Final = ("--header-timeout-seconds", "2", "--body-timeout-seconds", "2")
"""options of a server that waits two seconds for headers and for a body"""


def _of_type(kind: str | None) -> Case:
    shown = "no Content-Type" if kind is None else f"Content-Type: {kind}"
    headers = {"Content-Length": str(len(_GOOD)), "Connection": "close"}
    raw = head("POST", CHAT, headers | ({} if kind is None else {"Content-Type": kind})) + _GOOD
    return refused(shown, None, (400, 415), raw=raw)


def _raw_headers(shown: str, lines: bytes, statuses: tuple[int, ...]) -> Case:
    raw = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n\r\n"

    async def send(served: Served) -> Seen:
        reply = await served.ask("GET", "/health", raw=raw, seconds=10)
        return Seen(str(reply.status), told(reply), reply.status in statuses and len(reply.body) < 1000)

    return Case(shown, send)


def _chunked_over_the_cap() -> Case:
    piece = b"%x\r\n" % 32_768 + b" " * 32_768 + b"\r\n"
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    raw = head("POST", CHAT, headers) + piece * 8 + b"0\r\n\r\n"
    return refused("256 KiB in chunks, no length declared", None, (413,), raw=raw)


def _slowly(shown: str, begin: bytes, piece: bytes, limit: float) -> Case:
    """Returns a case that sends a piece every 0.2 s and must be cut off within ``limit`` seconds."""

    async def send(served: Served) -> Seen:
        start = time.monotonic()
        async with connected(served.port) as (reader, writer):
            writer.write(begin)
            answer = asyncio.create_task(read_reply(reader, start))
            while not answer.done() and time.monotonic() - start < 4 * limit:
                writer.write(piece)
                await asyncio.wait([answer], timeout=0.2)
            if not answer.done():
                answer.cancel()
                await asyncio.wait([answer])
                return Seen("open", f"still open after {4 * limit:g} s", False)
            failed = isinstance(answer.exception(), ConnectionError)
            status = 0 if failed else answer.result().status
            body = "" if failed else told(answer.result())
            in_time = time.monotonic() - start <= limit
        shown_status = str(status) if status else "closed"
        return Seen(
            shown_status, f"closed in time{': ' + body if body else ''}", in_time and status in (0, 408)
        )

    return Case(shown, send)


def _with_id(shown: str, given: bytes) -> Case:
    raw = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: " + given + b"\r\n\r\n"

    async def send(served: Served) -> Seen:
        before = served.log_size()
        reply = await served.ask("GET", "/health", raw=raw, seconds=10)
        back = reply.headers.get("x-request-id", "")
        written = served.log().encode()[before:]
        injected = b"injected" in written or b"\x1b" in written or any("injected" in n for n in reply.headers)
        # a header ends at a bare line feed: what stands before it is an id, what follows another header
        cut = given.partition(b"\n")[0].decode("latin-1") if b"\n" in given else None
        replaced = reply.status == 400 or back.startswith("req-") or back == cut
        body = "another id was given" if back.startswith("req-") else told(reply)
        if back == cut:
            body = f"the id is `{back}`; nothing else came back or was logged"
        return Seen(str(reply.status), body, replaced and not injected)

    return Case(shown, send)


def _json_rows() -> list[Row]:
    def on_both(shown: str, body: bytes, **given: Any) -> tuple[Case, ...]:
        return tuple(refused(f"{shown}, to {path}", body, path=path, **given) for path in (CHAT, PLAIN))

    deep = b"[" * _DEEP
    return [
        Row(1, "body not JSON", "400", (*on_both("`not json`", b"not json"), refused("an empty body", b""))),
        Row(2, "truncated JSON", "400", on_both('`{"messages": [`', b'{"messages": [')),
        Row(
            3,
            "JSON array, string or null as the body",
            "400",
            tuple(refused(f"`{body.decode()}`", body) for body in (b"[]", b'"text"', b"null", b"1")),
        ),
        Row(
            4,
            "wrong content type",
            "415 or 400, never 500",
            tuple(
                map(_of_type, ("text/plain", "multipart/form-data; boundary=x", "application/xml", "x", None))
            ),
        ),
        Row(
            5,
            "body over the cap",
            "413 before parsing",
            (refused("128 KiB, declared", b" " * (2 * _CAP), (413,)), _chunked_over_the_cap()),
            bounded_by=("max_body_bytes",),
            server=("--max-body-bytes", str(_CAP)),
        ),
        Row(
            6,
            "JSON nested 10,000 deep",
            "400, no recursion",
            (
                refused("lists as `messages`", b'{"messages":' + deep + b"]" * _DEEP + b"}"),
                refused("objects, from the top", b'{"a":' * _DEEP + b"1" + b"}" * _DEEP),
                refused("lists without an end", deep),
                refused(
                    "lists in an unknown field",
                    b'{"x":' + deep + b"]" * _DEEP + b',"messages":' + json.dumps(HELLO).encode() + b"}",
                ),
            ),
        ),
    ]


def _connection_rows() -> list[Row]:
    many = b"\r\n".join(b"X-%d: y" % n for n in range(10_000))
    line = b"GET /health HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n"
    post = head("POST", CHAT, {"Content-Type": "application/json", "Content-Length": "1000"})
    return [
        Row(
            42,
            "10,000 headers, a header of 1 MB",
            "431 or 400",
            (
                _raw_headers("10,000 headers", many, (400, 431)),
                _raw_headers("200 headers", b"\r\n".join(many.split(b"\r\n")[:200]), (400, 431)),
                _raw_headers("a header of 1 MB", b"X-Big: " + b"x" * (1 << 20), (400, 431)),
            ),
        ),
        Row(
            43,
            "slowloris: a request that arrives byte by byte",
            "closed at the deadline",
            (
                _slowly("headers without an end", line, b"X-A: b\r\n", 6),
                _slowly("a line without an end", b"GET /", b"a", 6),
                _slowly("no byte at all", b"", b"", 6),
                _slowly("a body of 1,000 bytes", post, b" ", 6),
            ),
            bounded_by=("header_timeout_seconds", "body_timeout_seconds"),
            server=SLOW,
            quick=False,
        ),
        Row(
            46,
            "line ends in X-Request-Id",
            "rejected or replaced; nothing injected into the log",
            (
                _with_id("`a`, line feed, `injected: b`", b"a\ninjected: b"),
                _with_id("`a`, a folded line, `injected`", b"a\r\n injected"),
                _with_id("`a`, carriage return, `injected`", b"a\rinjected"),
                _with_id("`a`, escape, `[31m`", b"a\x1b[31m"),
                _with_id("65 characters", b"x" * 65),
                _with_id("`<script>`", b"<script>"),
            ),
        ),
    ]


BODY_ROWS: Final = (*_json_rows(), *_connection_rows())
"""the rows 1 to 6, 42, 43 and 46"""
