"""The process that renders chat templates: started as a script, it needs jinja2 and the standard library.

It reads frames from its standard input and answers each on its standard output: 8 bytes with the length of a
JSON object, then the object. What a template gets is what transformers gives it: the same sandbox, tags,
filters, functions, and the same end of a message that is to be continued. The end of its input, a signal or
a limit of its memory ends it; whatever the template does, it ends by itself behind its limit of time.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from copy import deepcopy
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO, Final

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

LENGTH_BYTES: Final = 8
_TAG: Final = "CONTINUE_FINAL_MESSAGE_TAG "
"""what stands behind a text that is to be continued while the template runs"""
_GRACE: Final = 1.0
"""seconds behind the limit after which the process ends although nobody ended it"""


class _Generation(Extension):
    """The block ``generation``, which marks the assistant's words and changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Macro) -> str:
        return caller()


def environment() -> ImmutableSandboxedEnvironment:
    """Returns the environment in which transformers runs chat templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = _now
    return made


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    return environment().from_string(source)


def rendered(
    source: str, messages: list[dict[str, Any]], continue_final_message: bool, variables: dict[str, Any]
) -> str:
    """Renders a conversation. Raises what the template raises, and ValueError for nothing to continue."""
    template = _compiled(source)
    if not continue_final_message:
        return template.render(messages=messages, **variables)
    messages = deepcopy(messages)
    words = _tagged(messages[-1])
    if "content" not in source:
        raise ValueError("continue_final_message: the chat template reads no content")
    text = template.render(messages=messages, **variables)
    if words.strip() not in text or _TAG.strip() not in text:
        raise ValueError("continue_final_message: the final message is not in the chat template's text")
    end = text.rindex(_TAG.strip())
    kept = text[end : end + len(_TAG)] == _TAG
    # a template that trims the blank behind the tag would trim those of the message too
    return text[:end] if kept else text[:end].rstrip()


def _tagged(message: dict[str, Any]) -> str:
    """Puts the tag behind the text of a message, or behind its last part with a text; returns the text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _TAG
        return content
    for part in reversed(content or []):
        if "text" in part:
            words = str(part["text"])
            part["text"] = words + _TAG
            return words
    raise ValueError("continue_final_message: the final message has no text to continue")


def answered(request: dict[str, Any], sources: dict[int, str]) -> dict[str, Any]:
    """Answers a request: ``text``, or ``failure`` (refused, failed, memory, size) with a ``message``.

    ``sources`` keeps the templates that have come, by their numbers.
    """
    number = request["number"]
    if (source := request.get("source")) is not None:
        sources[number] = source
    try:
        text = rendered(
            sources[number], request["messages"], request["continue_final_message"], request["variables"]
        )
    except MemoryError:
        return {"failure": "memory", "message": ""}
    except TemplateError as error:
        return {"failure": "refused", "message": str(error)}
    except Exception as error:  # noqa: BLE001 - a template may raise anything; the parent tells the client
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return {"failure": "failed", "message": f"{kind}{error}"[:1000]}
    if len(text) > request["most_characters"]:
        return {"failure": "size", "message": str(request["most_characters"])}
    return {"text": text}


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    body = source.read(int.from_bytes(head))
    return body if len(body) == int.from_bytes(head) else None


def _write(sink: BinaryIO, body: bytes) -> None:
    sink.write(len(body).to_bytes(LENGTH_BYTES) + body)
    sink.flush()


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def main(seconds: float, memory: int) -> None:
    """Serves until the input ends. ``seconds``: of one rendering; ``memory``: bytes of address space."""
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sources: dict[int, str] = {}
    _write(sink, b"{}")
    while (body := _read(source)) is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
        try:
            answer = json.dumps(answered(json.loads(body), sources)).encode()
        except MemoryError:
            answer = b'{"failure": "memory", "message": ""}'
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(sink, answer)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
