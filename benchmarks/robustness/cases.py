"""A row of bad inputs, the requests that show it, and what came back for each."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .served import Served
from .wire import CHAT, Reply

HELLO: Final = [{"role": "user", "content": "Hello"}]
_SHOWN: Final = 150
"""characters of a body that the page shows"""
# what is another one in every run
_CHANGING: Final = (
    (re.compile(r"\b(req|chatcmpl|cmpl|resp|msg)[-_][0-9a-f]{16,}"), r"\1-..."),
    (re.compile(r'"created":\s*\d+'), '"created": ...'),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """Facts about one request: the status, what came back, whether it is what the row expects."""

    status: str
    body: str
    held: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A request of a row: its input in words, and the function that sends it."""

    shown: str
    send: Callable[[Served], Awaitable[Seen]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: bad inputs of one kind.

    ``bounded_by``: the settings that bound it, by name. ``server``: options of the server that shows it; rows
    with the same options share one. ``tests``: the tests that show what no client can bring about.
    """

    number: int
    input: str
    expected: str
    cases: tuple[Case, ...] = ()
    bounded_by: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    quick: bool = True
    """False where it waits for deadlines of some seconds, or ends its server"""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input of every line that the page has of this row."""
        return (*(case.shown for case in self.cases), *(f"`{test}`" for test in self.tests))


def steady(text: str) -> str:
    """Returns a text without ids and times, which differ from run to run."""
    for pattern, instead in _CHANGING:
        text = pattern.sub(instead, text)
    return text


def short(text: str) -> str:
    """Returns the beginning of a text, made steady and printable on one line."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in steady(text))
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def told(reply: Reply) -> str:
    """Returns what a reply says, shortened: an error's fields, how its choices end, or its body."""
    error = reply.error
    if error is not None:
        named = [f"{name} {error[name]}" for name in ("param", "code") if error[name] is not None]
        return short(error["message"]) + (f" ({', '.join(named)})" if named else "")
    if reply.status == 200 and reply.body.startswith(b'{"id"'):
        said = reply.json()
        return f"finish_reason {', '.join(choice['finish_reason'] for choice in said['choices'])}"
    return short(reply.text)


def is_refusal(reply: Reply, statuses: Sequence[int], param: str | None = None) -> bool:
    """True if a reply is an error in OpenAI's shape with one of the statuses, which names ``param``."""
    error = reply.error
    if error is None or reply.status not in statuses:
        return False
    kind = "invalid_request_error" if reply.status < 500 else "server_error"
    # an answer that tells more would echo the client's input, or the server's inside
    proper = error["type"] == kind and len(error["message"]) < 1000 and "Traceback" not in reply.text
    return proper and (param is None or error["param"] == param)


def refused(
    shown: str,
    body: Any,
    statuses: Sequence[int] = (400,),
    param: str | None = None,
    path: str = CHAT,
    **given: Any,
) -> Case:
    """Returns a case whose body must be refused with one of ``statuses`` in OpenAI's shape."""

    async def send(served: Served) -> Seen:
        reply = await served.ask("POST", path, body, **given)
        return Seen(str(reply.status), told(reply), is_refusal(reply, statuses, param))

    return Case(shown, send)


def field_refused(name: str, value: Any, path: str = CHAT, **more: Any) -> Case:
    """Returns a case of a chat request, or of a prompt's, with one wrong field, whose error must name it."""
    good: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "Hello"}
    given = json.dumps({name: value, **more})
    shown = given if len(given) < 80 else f"{given[:60]}... ({len(given)} bytes)"
    shown = f"`{shown}`" + ("" if path == CHAT else f", to {path}")
    return refused(shown, {**good, name: value, **more}, param=name, path=path)
