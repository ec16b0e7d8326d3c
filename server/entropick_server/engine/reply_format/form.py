"""The form of one model's replies, made once at its loading, and the parsers of single replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from transformers.utils.chat_parsing.response_templates import ResponseTemplate

from ..grammar.spec import Grammar
from ..grammar.tags import Tag, TaggedText
from .parser import REASONING_FIELDS, ReplyParser, readable
from .told import Telling

Decode = Callable[[list[int]], str]
"""returns the text of token ids, special tokens included"""
_TAIL: Final = 64
"""tokens at a prompt's end that are searched first for the beginning of the assistant's turn"""
MOST_CALLS: Final = 16
"""calls of one reply whose form is forced"""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The texts around a call's name and arguments, as the chat template writes them.

    ``between``: the text between two calls; None where one reply holds one call.
    """

    begin: str
    middle: str
    end: str
    between: str | None

    def grammar(
        self, tools: Mapping[str, Mapping[str, Any]], *, several: bool, otherwise: str | None = None
    ) -> Grammar:
        """Returns the grammar of a reply that calls one of ``tools`` (name -> schema of the arguments).

        ``several``: the reply may hold more than one call. ``otherwise``: the JSON text of a schema that it
        may follow instead.
        """
        tags = tuple(Tag(self.begin + name + self.middle, dict(s), self.end) for name, s in tools.items())
        most = MOST_CALLS if several and self.between is not None else 1
        return TaggedText(tags, most, self.between or "", otherwise).grammar()


@dataclass(frozen=True, slots=True)
class Reading:
    """A response template in the two forms that a parser needs, and the special tokens that are marks of it.

    ``marks``: token id -> bytes.
    """

    template: ResponseTemplate
    reader: ResponseTemplate
    marks: Mapping[int, bytes]

    @classmethod
    def of(cls, template: ResponseTemplate, marks: Mapping[int, bytes]) -> Reading:
        """Makes the second form."""
        return cls(template, readable(template), marks)

    @property
    def reasons(self) -> bool:
        """Tells whether reasoning is told from other text."""
        return bool(REASONING_FIELDS & self.template.fields.keys())


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """The form of a model's replies.

    ``takes_tools``: its chat template has a place for tools, or shows them as text. ``plain`` and
    ``calling``: how replies are read without and with tools; None where the whole reply is text.
    ``call_form``: how a call is written; None where that is not known. ``id_length``: characters of a call's
    id, where the chat template allows no others. ``telling``: how tools are told as text; None where the chat
    template has a place for them.
    """

    decode: Decode
    takes_tools: bool = False
    plain: Reading | None = None
    calling: Reading | None = None
    call_form: CallForm | None = None
    id_length: int | None = None
    telling: Telling | None = None

    def parser(
        self, reading: Reading, prompt_token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> ReplyParser:
        """Returns the parser of the reply to a prompt."""
        before = self._turn(reading.template, prompt_token_ids)
        return ReplyParser(reading.template, reading.reader, before, tools)

    def _turn(self, template: ResponseTemplate, ids: Sequence[int]) -> str:
        """Returns the text of the assistant's turn that a prompt ends with, "" where it has none."""
        size = _TAIL
        while True:
            text = self.decode(list(ids[-size:]))
            behind = template.truncate_past_last_anchor(text)
            if len(behind) < len(text):
                return behind
            if size >= len(ids):
                return ""
            size *= 4
