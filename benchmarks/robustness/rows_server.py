"""Rows about grammars, keys and the server as a whole: cancelling, slow readers, a full queue, the end."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from typing import Any, Final

from .cases import HELLO, Case, Row, Seen, is_refusal, refused, told
from .served import Served
from .wire import CHAT, HOST, PLAIN, Reply, connected, events, request_bytes

KEY: Final = "the-key-of-the-trial"
_OPEN: Final = frozenset({"/health", "/"})
"""paths that need no key; the page and its files hold no data"""
_HIDDEN: Final = ("/openapi.json", "/docs", "/redoc", "/nope", "/v1/", "/metrics/")
LONG: Final[dict[str, Any]] = {"messages": HELLO, "max_tokens": 600, "ignore_eos": True, "seed": 3}
_MARKUP: Final = "<img src=x onerror=alert(1)>"


def _within(shown: str, body: dict[str, Any], seconds: float, statuses: tuple[int, ...] = (400,)) -> Case:
    """Returns a case that must be refused, or served with 200, within some seconds."""

    async def send(served: Served) -> Seen:
        reply = await served.ask("POST", CHAT, {"messages": HELLO, "max_tokens": 24, "seed": 1, **body})
        good = reply.status == 200 if 200 in statuses and reply.status == 200 else is_refusal(reply, statuses)
        late = "" if reply.seconds < seconds else f" (after {reply.seconds:.1f} s)"
        return Seen(str(reply.status), told(reply) + late, good and reply.seconds < seconds)

    return Case(shown, send)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _keyless(shown: str, headers: dict[str, str]) -> Case:
    """Returns a case that asks every route without the right key: each must refuse alike."""

    async def send(served: Served) -> Seen:
        served.key = KEY
        listed = (await served.ask("GET", "/openapi.json")).json()["paths"]
        asked = [(m.upper(), path.replace("{", "").replace("}", "")) for path in listed for m in listed[path]]
        asked += [(method, path) for path in _HIDDEN for method in ("GET", "POST")]
        asked = [(method, path) for method, path in asked if path not in _OPEN]
        replies: list[Reply] = []
        for method, path in asked:
            served.key = None
            replies.append(await served.ask(method, path, {} if method == "POST" else None, headers=headers))
        served.key = KEY
        let_in = [f"{m} {p}: {r.status}" for (m, p), r in zip(asked, replies, strict=True) if r.status != 401]
        held = not let_in and all(is_refusal(r, (401,)) and r.body == replies[0].body for r in replies)
        body = f"{len(replies)} routes: {told(replies[0])}" if held else "; ".join(let_in)[:200]
        return Seen("/".join(sorted({str(r.status) for r in replies})), body, held)

    return Case(shown, send)


async def _cancelled(served: Served) -> Seen:
    async def leave() -> None:
        async with connected(served.port) as (reader, writer):
            writer.write(request_bytes("POST", CHAT, {**LONG, "stream": True}))
            await asyncio.wait([asyncio.create_task(reader.read(1 << 20))], timeout=0.5)

    before = served.descriptors()
    await asyncio.gather(*(leave() for _ in range(200)))
    begin = time.monotonic()
    fine = await served.good()
    seconds = time.monotonic() - begin
    idle = await served.idle()
    leaked = served.descriptors() - before
    text = (
        f"the next request {'took less than 5 s' if seconds < 5 else f'took {seconds:.1f} s'}; "
        f"{'every block of the KV cache is free' if idle else 'blocks stay in use'}; "
        f"{'no descriptor' if leaked < 10 else f'{leaked} descriptors'} left open"
    )
    return Seen("left", text, fine and seconds < 5 and idle and leaked < 10)


def unread(served: Served, body: dict[str, Any], path: str = CHAT) -> socket.socket:
    """Sends a request over a socket with a small buffer, and returns it; nothing of it will be read."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((HOST, served.port))
    reader.sendall(request_bytes("POST", path, body))
    return reader


async def gone(served: Served, others: int, seconds: float) -> bool:
    """True if within ``seconds`` the server has no more established connections than ``others``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if served.connections() <= others:
            return True
        await asyncio.sleep(0.1)
    return False


async def _slow_reader(served: Served) -> Seen:
    before = served.resident_mib()
    body = {**LONG, "n": 8, "stream": True, "entropick": {"telemetry": "full"}}
    readers = [unread(served, body) for _ in range(2)]
    try:
        await asyncio.sleep(1.0)
        aborted = await gone(served, 0, 60)
        grown = served.resident_mib() - before
    finally:
        for reader in readers:
            reader.close()
    bounded = grown < 128
    text = (
        f"{'the connections were aborted' if aborted else 'the connections stayed'}; memory "
        f"{'grew by less than 128 MiB' if bounded else f'grew by {grown:.0f} MiB'}"
    )
    return Seen("aborted" if aborted else "open", text, aborted and bounded and await served.idle())


async def _full_queue(served: Served) -> Seen:
    replies = await asyncio.gather(*(served.ask("POST", CHAT, {**LONG, "max_tokens": 200}) for _ in range(8)))
    refusals = [reply for reply in replies if reply.status != 200]
    done = len(replies) - len(refusals)
    if not refusals:
        return Seen("200", "all were served", False)
    retries = {reply.headers.get("retry-after", "") for reply in refusals}
    held = all(is_refusal(reply, (429, 503)) for reply in refusals) and all(r.isdigit() for r in retries)
    text = f"{told(refusals[0])}; Retry-After in seconds; the others were served"
    return Seen("/".join(sorted({str(r.status) for r in refusals})), text, held and done > 0)


async def _terminated(served: Served) -> Seen:
    ends: list[str] = []
    first = asyncio.Event()

    async def read() -> None:
        async for event in events(served.port, LONG):
            first.set()
            ends.append("[DONE]" if event is None else "")

    reading = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 30)
    served.signal(signal.SIGTERM)
    await asyncio.sleep(0.05)
    new = await served.ask("POST", CHAT, {"messages": HELLO}, seconds=5)
    await reading
    code = await served.ended(40)
    text = (
        f"new requests: {told(new)}; the open stream "
        f"{'ended with [DONE]' if ends and ends[-1] == '[DONE]' else 'was cut'}; exit code {code}"
    )
    held = is_refusal(new, (503,)) and ends[-1] == "[DONE]" and code == 0
    return Seen(str(new.status), text, held)


def _penalties(path: str, policy: str) -> Case:
    async def send(served: Served) -> Seen:
        body: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "Hello"}
        seen = []
        for sign in (1, -1):
            asked = body | {
                "frequency_penalty": 2.0 * sign,
                "presence_penalty": 2.0 * sign,
                "repetition_penalty": 100 if sign > 0 else 1e-3,
                "temperature": 2.0,
                "logit_bias": {"5": 100.0 * sign, "6": -100.0 * sign},
                "n": 4,
                "max_tokens": 48,
                "ignore_eos": True,
                "seed": 1,
                "entropick": {"policy": policy},
            }
            seen.append(await served.ask("POST", path, asked))
        return Seen(
            "/".join(sorted({str(r.status) for r in seen})), told(seen[0]), all(r.status == 200 for r in seen)
        )

    return Case(f"every penalty at both limits, policy {policy}, to {path}", send)


async def _markup(served: Served) -> Seen:
    reply = await served.ask("POST", CHAT, {"messages": HELLO, "guided_choice": [_MARKUP]})
    kind = reply.headers.get("content-type", "")
    page = await served.ask("GET", "/")
    policy = page.headers.get("content-security-policy", "")
    held = kind == "application/json" and "script-src 'self'" in policy and "default-src 'none'" in policy
    return Seen(str(reply.status), f"sent as {kind}; the page's policy: script-src 'self'", held)


SERVER_ROWS: Final = (
    Row(
        34,
        "regular expressions foo**, (a+)+$",
        "400, or a compile time with a bound",
        (
            _within("guided_regex `foo**`", {"guided_regex": "foo**"}, 5, (200, 400)),
            _within("guided_regex `(a+)+$`", {"guided_regex": "(a+)+$"}, 5, (200, 400)),
            _within(
                "guided_regex `(a{1,1000}){1,1000}`", {"guided_regex": "(a{1,1000}){1,1000}"}, 12, (200, 400)
            ),
            _within("guided_regex `(`", {"guided_regex": "("}, 5),
        ),
    ),
    Row(
        35,
        "a schema that is recursive, or 1 MB",
        "400, with a limit of time",
        (
            _within('`{"$ref": "#"}`', {"guided_json": {"$ref": "#"}}, 5),
            _within(
                "1 MB of properties", {"guided_json": {"properties": {f"p{n}": {} for n in range(70_000)}}}, 5
            ),
            _within("nested 100 deep", {"guided_json": _nested(100)}, 5),
            _within(
                "a tool whose schema is recursive",
                {
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
                    "tool_choice": "required",
                },
                5,
            ),
        ),
    ),
    Row(
        36,
        "unknown model",
        "404 model_not_found",
        (
            refused("a chat", {"messages": HELLO, "model": "other"}, (404,), "model"),
            refused("a prompt", {"prompt": "Hello", "model": "other"}, (404,), "model", path=PLAIN),
            refused("/tokenize", {"prompt": "Hello", "model": "x" * 5000}, (404,), "model", path="/tokenize"),
        ),
    ),
    Row(
        37,
        "no key or a wrong one, on EVERY route",
        "401, compared in constant time",
        (
            _keyless("no key", {}),
            _keyless("a wrong key", {"Authorization": "Bearer another"}),
            _keyless("the key's beginning", {"Authorization": f"Bearer {KEY[:-1]}"}),
            _keyless("the key, as another scheme", {"Authorization": f"Basic {KEY}"}),
            _keyless("an empty key", {"Authorization": "Bearer "}),
        ),
        bounded_by=("api_key",),
        server=("--api-key", KEY),
    ),
    Row(
        38,
        "200 clients cancel after 0.5 s",
        "the next request is served within 5 s, nothing leaks",
        (Case("200 streams of 600 tokens, left after 0.5 s", _cancelled),),
        bounded_by=("max_num_seqs", "max_queue"),
        quick=False,
    ),
    Row(
        39,
        "a client that does not read its stream",
        "a bounded buffer, then the connection is aborted",
        (Case("2 streams with 8 choices and telemetry `full`, never read", _slow_reader),),
        bounded_by=("write_timeout_seconds",),
        server=("--write-timeout-seconds", "2"),
        quick=False,
    ),
    Row(
        40,
        "a full queue",
        "503 (or 429) with Retry-After",
        (Case("eight requests where one runs and one may wait", _full_queue),),
        bounded_by=("max_queue", "max_num_seqs"),
        server=("--max-num-seqs", "1", "--max-queue", "1"),
        quick=False,
    ),
    Row(
        41,
        "SIGTERM in the middle of a stream",
        "the stream is finished within the deadline, new requests get 503",
        (Case("SIGTERM behind the first token", _terminated),),
        bounded_by=("drain_seconds",),
        server=("--drain-seconds", "25"),
        quick=False,
    ),
    Row(
        44,
        "penalties at their limits under the adaptive sampler",
        "200, the engine lives",
        tuple(_penalties(path, policy) for path in (CHAT, PLAIN) for policy in ("entropix", "fixed")),
    ),
    Row(
        45,
        "NaN in the model's logits",
        "an error for that request alone",
        tests=(
            "tests/server/engine/test_embedded_engine.py::test_bad_logits_fail_their_request_alone",
            "tests/server/engine/test_shared_blocks.py::test_bad_logits_hurt_no_sharer_and_leave_no_block_behind",
        ),
    ),
    Row(
        47,
        "HTML in generated tokens, in the page",
        "escaped",
        (Case(f"a reply that must be `{_MARKUP}`", _markup),),
        tests=("tests/page/test_conversation.py::test_markup_in_a_token_is_text_everywhere",),
    ),
)
"""the rows 34 to 41, 44, 45 and 47"""
