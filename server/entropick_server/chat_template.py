"""A model's chat template with the forms of content that it reads: text whole, or in parts.

A template that was made for parts shows nothing of a message whose text comes whole, and a template that was
made for whole texts prints a list of parts as such. Which of the two it is, is tried for each role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from jinja2 import TemplateError

from .engine.base import Tokenizer
from .engine.control_text.stand_ins import Conversation, StandIns, hidden
from .engine.reply_format.told import Telling
from .engine.templates.renderer import TemplateLimitError
from .redaction import redacted

_FAILURES: Final = (
    TemplateError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RuntimeError,
    MemoryError,
)
"""what code in a template can raise; none of it is the server's fault"""
_WORDS: Final = ("qzalpha", "qzbeta")
_FILLER: Final[Mapping[str, Any]] = {"role": "user", "content": "qzgamma"}
_LISTED: Final = ("'type'", '"type"')
"""what stands in a list of parts that was printed instead of read"""

Turn = Mapping[str, Any]
"""a message as a template sees it: role, content (a text, or a list of parts of type text), and more"""


class ChatTemplateError(ValueError):
    """A failure of a template on a conversation, or the lack of a template; the message says why."""


class Forms(NamedTuple):
    """The forms in which a template shows the words of a role."""

    whole: bool
    parts: bool


class Prompt(NamedTuple):
    """The text that a chat template made of a conversation."""

    text: str
    pieces: tuple[str, ...]
    """the same text in pieces: those at odd places are control tokens, the others text"""


class ChatTemplate:
    """The chat template of a tokenizer.

    What a client sends is text: special tokens in it are not tokens, unless ``special_tokens_in_messages``.
    """

    def __init__(self, tokenizer: Tokenizer, *, special_tokens_in_messages: bool = False) -> None:
        self._tokenizer = tokenizer
        self._literal = not special_tokens_in_messages
        self._forms: dict[str, Forms] = {}

    def prompt(
        self,
        turns: Sequence[Turn],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_options: Mapping[str, Any] | None = None,
        telling: Telling | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> Prompt:
        """Returns the text of a conversation, with the places of its control tokens.

        ``tools``: their definitions; ``template_options``: variables of the template; ``telling``: how tools
        are told as text, where the template has no place for them. Raises ChatTemplateError.
        """
        sent, stand_ins = Conversation(turns, tools, template_options), StandIns({})
        if self._literal:
            try:
                sent, stand_ins = hidden(sent, self._tokenizer.controls)
            except ValueError as error:
                raise ChatTemplateError(str(error)) from error
        turns, tools, template_options = sent
        if telling is not None:
            turns, tools = telling.turns(turns, tools), ()
        try:
            text = self.render(
                turns,
                tools=tools,
                template_options=template_options,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
        except ChatTemplateError as error:
            raise ChatTemplateError(stand_ins.shown(str(error))) from error
        pieces = tuple(map(stand_ins.shown, self._tokenizer.controls.of_all.split(text)))
        return Prompt("".join(pieces), pieces)

    def ids(self, prompt: Prompt, *, add_special_tokens: bool = False) -> list[int]:
        """Returns the token ids of a conversation's text."""
        return self._tokenizer.encode_pieces(prompt.pieces, add_special_tokens=add_special_tokens)

    def render(
        self,
        turns: Sequence[Turn],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """Renders a conversation as text; ``variables`` go to the tokenizer's ``render_chat``.

        A content in parts stays so where the template reads parts of its role; else they become the lines of
        a text. Raises ChatTemplateError.
        """
        shown = [self._in_form(turn) for turn in turns]
        return self._render(
            shown,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )

    def encode(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> list[int]:
        """Encodes a conversation as token ids. Raises ChatTemplateError."""
        return self.ids(self.prompt(turns, add_generation_prompt=add_generation_prompt))

    def _render(self, turns: list[dict[str, Any]], **variables: Any) -> str:
        try:
            return self._tokenizer.render_chat(turns, **variables)
        except _FAILURES as error:
            # a plain ValueError explains itself: no template, or the template's own refusal
            plain = type(error) in (ValueError, TemplateError, TemplateLimitError)
            kind = "" if plain else f"{type(error).__name__}: "
            reason = f"the chat template fails on these messages: {kind}" if kind else ""
            raise ChatTemplateError(f"{reason}{redacted(str(error)[:300])}") from error

    def _in_form(self, turn: Turn) -> dict[str, Any]:
        content = turn.get("content")
        if not isinstance(content, str | list):
            return dict(turn)
        forms = self.forms(str(turn.get("role")))
        if isinstance(content, list) and not forms.parts:
            lines: list[Any] = content
            content = "\n".join(part["text"] for part in lines)
        elif isinstance(content, str) and forms.parts and not forms.whole:
            content = [{"type": "text", "text": content}]
        return {**turn, "content": content}

    def forms(self, role: str) -> Forms:
        """Returns the forms of content that the template reads of a role; whole texts where none is seen."""
        if role not in self._forms:
            whole = self._shows(role, " ".join(_WORDS))
            parts = self._shows(role, [{"type": "text", "text": word} for word in _WORDS])
            self._forms[role] = Forms(whole or not parts, parts)
        return self._forms[role]

    def _shows(self, role: str, content: Any) -> bool:
        turn: Turn = {"role": role, "content": content}
        turns: Sequence[Turn] = {"system": [turn, _FILLER], "user": [turn]}.get(role, [_FILLER, turn])
        try:
            text = self._render([dict(t) for t in turns], add_generation_prompt=False)
        except ChatTemplateError:
            return False
        return all(word in text for word in _WORDS) and not any(mark in text for mark in _LISTED)
