"""Rows about messages and prompts, and about text that is hard to stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from .cases import HELLO, Case, Row, Seen, field_refused, is_refusal, refused, told
from .served import Served
from .wire import CHAT, HOST, PLAIN, events

_EMOJI: Final = "🙂👩‍👩‍👧🏳️‍🌈"
_TEXT: Final = "one two three four"


def _messages(shown: str, messages: Any) -> Case:
    return refused(shown, {} if messages is None else {"messages": messages})


def _role(role: Any) -> Case:
    return _messages(f"role {json.dumps(role)}", [{"role": role, "content": "x"}])


def _part(shown: str, part: Any) -> tuple[Case, ...]:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}
    return refused(shown, body), refused(f"{shown}, to /tokenize", body, path="/tokenize")


def _fetched(shown: str, path: str) -> Case:
    """Returns a case with the address of a listener here, which nobody may call."""

    async def send(served: Served) -> Seen:
        called: list[None] = []

        async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            called.append(None)
            writer.close()

        async with await asyncio.start_server(listen, HOST, 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            part = {"type": "image_url", "image_url": {"url": f"http://{HOST}:{port}/x.png"}}
            reply = await served.ask("POST", path, {"messages": [{"role": "user", "content": [part]}]})
            await asyncio.sleep(0.5)
        body = f"{told(reply)}; calls of the address: {len(called)}"
        return Seen(str(reply.status), body, is_refusal(reply, (400,)) and not called)

    return Case(shown, send)


def _odd(shown: str, text: str) -> Case:
    """Returns a case whose stream must be valid UTF-8 and hold no half characters, or a 400."""

    async def send(served: Served) -> Seen:
        body = {"messages": [{"role": "user", "content": text}], "seed": 1, "max_tokens": 16, "stream": True}
        reply = await served.ask("POST", CHAT, body)
        if reply.status == 400:
            return Seen("400", told(reply), is_refusal(reply, (400,)))
        said = reply.body.decode("utf-8", errors="strict")
        whole = reply.status == 200 and said.endswith("data: [DONE]\n\n")
        return Seen(str(reply.status), "a whole stream of valid UTF-8", whole)

    return Case(shown, send)


async def _said(served: Served, body: dict[str, Any], path: str = CHAT) -> tuple[list[str], str]:
    """Returns the pieces of text of a stream, and its finish_reason."""
    pieces, end = [], ""
    async for event in events(served.port, body, path):
        for choice in (event or {}).get("choices", ()):
            pieces.append(choice["delta"].get("content") or "" if path == CHAT else choice["text"])
            end = choice["finish_reason"] or end
    return pieces, end


def _emoji() -> Case:
    async def send(served: Served) -> Seen:
        body = {"messages": HELLO, "guided_choice": [_EMOJI * 3], "seed": 1}
        pieces, end = await _said(served, body)
        same = "".join(pieces) == _EMOJI * 3 and not any("\ufffd" in piece for piece in pieces)
        return Seen("200", f"finish_reason {end}; no U+FFFD in the pieces, whose sum is the text", same)

    return Case(f"a reply that must be `{_EMOJI}`, three times, streamed", send)


def _stopped(stop: str, leaves: str) -> Case:
    async def send(served: Served) -> Seen:
        body = {"messages": HELLO, "guided_choice": [_TEXT], "stop": stop, "seed": 1}
        pieces, end = await _said(served, body)
        text = "".join(pieces)
        return Seen("200", f'finish_reason {end}, the text is "{text}"', (text, end) == (leaves, "stop"))

    return Case(f"a reply that must be `{_TEXT}`, with stop `{stop}`, streamed", send)


PROMPT_ROWS: Final = (
    Row(
        22,
        "messages missing, empty, a string, [123], [{}]",
        "400",
        (
            _messages("no messages", None),
            *(_messages(f"`{json.dumps(given)}`", given) for given in ([], "Hello", [123], [{}], [None])),
            _messages("no content", [{"role": "user"}]),
            _messages("content 5", [{"role": "user", "content": 5}]),
        ),
    ),
    Row(23, "unknown role", "400", (_role("robot"), _role(["user"]), _role(None))),
    Row(
        24,
        "a part image_url at 169.254.169.254",
        "400, nothing fetched",
        (
            *_part(
                "http://169.254.169.254/latest",
                {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
            ),
            _fetched("an address on which this program listens", CHAT),
            _fetched("the same, to /tokenize", "/tokenize"),
        ),
    ),
    Row(
        25,
        "a file:// address",
        "400, nothing read",
        (
            *_part("file:///etc/passwd", {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
            *_part("input_audio", {"type": "input_audio", "input_audio": {"data": "file:///etc/passwd"}}),
        ),
    ),
    Row(
        26,
        "chat_template from a client",
        "400: templates are the model's or the operator's, and run in a sandbox",
        (
            field_refused("chat_template", "{{ x }}"),
            field_refused("chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ),
        bounded_by=("chat_template",),
        tests=("tests/server/engine/test_tokenizer.py::test_a_template_cannot_leave_the_sandbox",),
    ),
    Row(
        27,
        "chat_template_kwargs that override tokenize",
        "400",
        (
            refused("tokenize true", {"messages": HELLO, "chat_template_kwargs": {"tokenize": True}}),
            refused("messages []", {"messages": HELLO, "chat_template_kwargs": {"messages": []}}),
            refused("a list", {"messages": HELLO, "chat_template_kwargs": ["tokenize"]}),
        ),
    ),
    Row(
        28,
        "an empty prompt",
        "400",
        tuple(refused(f"`{json.dumps(p)}`", {"prompt": p}, path=PLAIN) for p in ("", [], [""], [[]], None)),
    ),
    Row(
        29,
        "token ids outside the vocabulary, negative ones",
        "400",
        (
            *(
                refused(f"`{p}`", {"prompt": p}, param="prompt", path=PLAIN)
                for p in ([-1], [10**6], [[1], [-1]])
            ),
            refused("`[-1]` to /detokenize", {"tokens": [-1]}, param="tokens", path="/detokenize"),
        ),
    ),
    Row(
        30,
        "lone surrogates, NUL, right-to-left text, characters of four bytes",
        "200 or 400; the stream is valid UTF-8",
        (
            refused("a lone surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
            _odd("NUL", "a\x00b"),
            _odd("right-to-left text", "שלום \u202eabc"),
            _odd("characters of four bytes", "🙂👩‍👩‍👧‍👦 \U0010ffff"),
            _odd("line separators", "a\u2028b\u2029c"),
        ),
    ),
    Row(31, "characters split across tokens", "no U+FFFD in the stream", (_emoji(),)),
    Row(
        32,
        "a stop string across the border of two tokens",
        "the text ends before it, nothing of it is sent",
        (_stopped("wo th", "one t"), _stopped("ee four", "one two thr"), _stopped("r", "one two th")),
    ),
)
"""the rows 22 to 32"""
