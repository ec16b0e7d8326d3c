"""A reply taken apart while it grows, by transformers' parser of response templates.

The parser's events say which region of the reply a text lies in. A region of calls is kept until it closes
and is then parsed as a whole: a call that is malformed is text, so nothing of a reply is ever lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from transformers.utils.chat_parsing import ResponseParser, parse_response
from transformers.utils.chat_parsing.content_parsers import STREAMABLE_PARSERS
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

from .parts import Call, Part, Text

REASONING_FIELDS: Final = frozenset({"reasoning_content", "reasoning", "thinking"})
"""names that response templates give to the field of reasoning"""
CALLS_FIELD: Final = "tool_calls"


def readable(template: ResponseTemplate) -> ResponseTemplate:
    """Returns a template whose regions all come as they are written: no value is made of them, none fails."""
    fields = {
        name: replace(
            field,
            content="text",
            content_args={"strip": False},
            transform=None,
            transform_each=False,
            join=None,
            repeats=True,
            optional=True,
        )
        for name, field in template.fields.items()
    }
    return replace(template, fields=fields)


def without_calls(template: ResponseTemplate) -> ResponseTemplate:
    """Returns a template in which calls are text like any other."""
    return replace(template, fields={n: f for n, f in template.fields.items() if n != CALLS_FIELD})


@dataclass(slots=True)
class _Region:
    """The structured region that is open: where its opening mark begins in the text."""

    field: ResponseTemplateField
    begin: int


class ReplyParser:
    """The parts of one reply. What it returns does not depend on how the text was cut into pieces.

    Blanks between two parts belong to neither; those at the reply's beginning and end stay.
    """

    def __init__(
        self,
        template: ResponseTemplate,
        reader: ResponseTemplate,
        before: str,
        tools: Sequence[Mapping[str, Any]],
    ) -> None:
        """Prepares a parser.

        ``reader``: ``template`` made :func:`readable`; ``before``: the text of the assistant's turn that the
        prompt holds already; ``tools``: types of arguments are read from their schemas.
        """
        self._template = template
        self._tools: list[dict[Any, Any] | Callable[..., Any]] = [dict(tool) for tool in tools]
        self._parser = ResponseParser(reader, prefix="")
        self._text = before
        """what was fed so far"""
        self._at = 0
        """how far the parser's events have come in it"""
        self._known = len(before)
        self._region: _Region | None = None
        self._fresh = False
        """a part ended, and no text came behind it"""
        self._blanks = ""
        """blanks at the end of a text, which may turn out to lie between two parts"""
        self._reasoning_from: int | None = None
        self._spans: list[tuple[int, int | None]] = []
        self._take(self._parser.feed(before))
        self._blanks = ""

    def feed(self, text: str) -> list[Part]:
        """Takes more of the reply's text. Returns the parts that it completes."""
        self._text += text
        return self._take(self._parser.feed(text))

    def finish(self) -> list[Part]:
        """Takes the end of the reply. Returns the parts that were held back."""
        _, events = self._parser.finalize()
        reasons = self._reasoning_from is not None
        parts = self._take(events)
        if self._blanks and not self._fresh and not reasons:
            parts.append(Text(self._blanks))
        self._blanks = ""
        return parts

    @property
    def has_reasoned(self) -> bool:
        """Tells whether any of the reply is reasoning."""
        inside = self._reasoning_from is not None
        return inside or any(end is None or end > self._known for _, end in self._spans)

    def reasons_at(self, offset: int) -> bool:
        """Tells whether a character of the reply is reasoning, or a mark at either end of it.

        A reply that ended inside its reasoning ends with it: whatever lies behind belongs to it.
        """
        at = offset + self._known
        return any(begin <= at and (end is None or at < end) for begin, end in self._spans) or (
            self._reasoning_from is not None and at >= self._reasoning_from
        )

    @property
    def reasoning_end(self) -> int | None:
        """Returns where the reply's last reasoning ends: 0 without any, None where it has not ended."""
        if self._reasoning_from is not None:
            return None
        ends = [end for _, end in self._spans]
        if None in ends:
            return None
        return max((end - self._known for end in ends if end is not None), default=0)

    def _take(self, events: Sequence[Mapping[str, Any]]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            field = self._template.fields[event["field"]]
            if event["type"] == "region_open":
                self._open(field)
            elif event["type"] == "region_chunk":
                self._chunk(parts, field, event["text"])
            else:
                self._close(parts, field)
        return parts

    def _open(self, field: ResponseTemplateField) -> None:
        if field.open_re is None:
            return
        mark = field.open_re.search(self._text, self._at)
        begin = self._at if mark is None else mark.start()
        self._at = begin if mark is None else mark.end()
        if _is_text(field):
            self._fresh, self._blanks = True, ""
            if field.name in REASONING_FIELDS:
                self._reasoning_from = begin
        else:
            self._region = _Region(field, begin)

    def _chunk(self, parts: list[Part], field: ResponseTemplateField, text: str) -> None:
        # a closing mark behind nothing makes no event
        self._at = max(self._at, self._text.find(text, self._at)) + len(text)
        if _is_text(field):
            self._say(parts, text, field.name in REASONING_FIELDS)

    def _close(self, parts: list[Part], field: ResponseTemplateField) -> None:
        mark = None if field.close_re is None else field.close_re.match(self._text, self._at)
        end = self._at if mark is None else mark.end()
        self._at = end
        if self._reasoning_from is not None and field.name in REASONING_FIELDS:
            self._spans.append((self._reasoning_from, None if mark is None else end))
            self._reasoning_from = None
        region, self._region = self._region, None
        if region is None:
            if field.open_re is not None:
                self._fresh, self._blanks = True, ""
            return
        written = self._text[region.begin : end]
        calls = self._calls(written) if region.field.name == CALLS_FIELD else None
        if calls:
            parts += calls
            self._fresh, self._blanks = True, ""
        else:
            self._say(parts, written, reasoning=False)

    def _say(self, parts: list[Part], text: str, reasoning: bool) -> None:
        if self._fresh:
            text = text.lstrip()
            if not text:
                return
            self._fresh = False
        text = self._blanks + text
        said = text.rstrip()
        self._blanks = text[len(said) :]
        if said:
            parts.append(Text(said, reasoning))

    def _calls(self, written: str) -> list[Call] | None:
        """Returns the calls that a region holds, None where they are malformed."""
        try:
            message = parse_response(written, self._template, prefix="", tools=self._tools)
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        found = message.get(CALLS_FIELD)
        listed = [c for one in (found if isinstance(found, list) else [found]) for c in _each(one)]
        calls = [_call(one) for one in listed]
        return None if None in calls else [call for call in calls if call is not None]


def _is_text(field: ResponseTemplateField) -> bool:
    return field.content in STREAMABLE_PARSERS and field.name != CALLS_FIELD


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _call(value: Any) -> Call | None:
    """Returns a parsed call, None for what is none."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        return None
    try:
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        written.encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return Call(function["name"], written)
