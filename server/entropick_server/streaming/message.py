"""The message that a reply is: its reasoning, its text, its calls of tools, as they come and as a whole."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..answers import Extracted, Extractor
from ..engine.reply_format.form import Reading, ReplyFormat
from ..engine.reply_format.parser import ReplyParser
from ..engine.reply_format.parts import Call, Part, Text
from ..engine.types import Request

_ID_LENGTH: Final = 29
"""of "call_" and 24 digits, as OpenAI's"""


class CallBegin(NamedTuple):
    """The beginning of a call of a message, its place among them being ``number``."""

    number: int
    id: str
    name: str


class CallArguments(NamedTuple):
    """The arguments of a call of a message, as JSON text."""

    number: int
    arguments: str


Delta = Text | CallBegin | CallArguments
"""what a message grows by"""


class ToolCall(NamedTuple):
    """A call in a finished message; ``arguments``: JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class MessageForm:
    """The form in which the replies to one HTTP request are read.

    ``tools``: that the request defines; ``one_call``: a reply ends with its first call.
    ``forced``: it is nothing but calls, or JSON of a schema.
    """

    format: ReplyFormat
    reading: Reading
    tools: tuple[Mapping[str, Any], ...] = ()
    one_call: bool = False
    forced: bool = False

    def message(self, request: Request) -> Message:
        """Returns the empty message of a choice."""
        # what must be a call, or JSON, is no reasoning, also where the prompt has opened some
        ids = () if self.forced and not request.kept else request.prompt_token_ids
        parser = self.format.parser(self.reading, ids, self.tools)
        return Message(parser, self.one_call, self.format.id_length)


class Message:
    """The message of one choice while it is generated and after."""

    def __init__(self, parser: ReplyParser, one_call: bool = False, id_length: int | None = None) -> None:
        self.calls: list[ToolCall] = []
        self.ended = False
        """the reply must not go on: it has the only call that it may have"""
        self._parser = parser
        self._one_call = one_call
        self._id_length = id_length
        self._texts: dict[bool, list[str]] = {False: [], True: []}
        """reasoning or not -> stretches"""
        self._new: list[Delta] = []

    @property
    def text(self) -> str:
        """Returns the text so far."""
        return "".join(self._texts[False])

    @property
    def reasoning(self) -> str | None:
        """Returns the reasoning so far; None of a reply without."""
        return "".join(self._texts[True]) or None

    @property
    def has_reasoned(self) -> bool:
        """Tells whether tokens of the reply belong to reasoning, be it empty."""
        return self._parser.has_reasoned

    def reasons_at(self, offset: int) -> bool:
        """Tells whether a character of the reply belongs to its reasoning."""
        return self._parser.reasons_at(offset)

    def behind_reasoning(self, extract: Extractor) -> Extractor:
        """Returns an extractor that takes the answer of the reply's text from behind its reasoning."""

        def extracted(text: str) -> Extracted | None:
            begin = self._parser.reasoning_end
            found = None if begin is None else extract(text[max(0, begin) :])
            if found is None or begin is None:
                return None
            shift = max(0, begin)
            return Extracted(found.answer, found.begin + shift, found.end + shift)

        return extracted

    def feed(self, text: str, *, end: bool) -> None:
        """Takes a stretch of the reply as it was written; ``end``: the last."""
        self._add(self._parser.feed(text))
        if end:
            self._add(self._parser.finish())

    def deltas(self) -> list[Delta]:
        """Returns the growth since the last time this was asked."""
        new, self._new = self._new, []
        return new

    def _add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if self.ended:
                return
            if isinstance(part, Call):
                self._call(part)
            else:
                self._texts[part.reasoning].append(part.text)
                self._new.append(part)

    def _call(self, call: Call) -> None:
        number, call_id = len(self.calls), self._id()
        self.calls.append(ToolCall(call_id, call.name, call.arguments))
        self._new += [CallBegin(number, call_id, call.name), CallArguments(number, call.arguments)]
        self.ended = self._one_call

    def _id(self) -> str:
        digits = uuid.uuid4().hex
        return f"call_{digits}"[:_ID_LENGTH] if self._id_length is None else digits[: self._id_length]
