"""Finds the form of a model's replies: by its response template, else by the calls of its chat template.

The chat template is asked to write a call of a tool that no one else has. The first form of the table whose
parser finds that call again is the model's. Where it has no place for tools they are told as text, and calls
have the form in which they were told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, load_response_template

from ..templates.renderer import TemplateLimitError
from .form import CallForm, Decode, Reading, ReplyFormat
from .parser import CALLS_FIELD, ReplyParser, readable, without_calls
from .parts import Call
from .table import CALLS, REASONING, THINK, THINK_END
from .told import TOLD_CALL, TOLD_FORM, Telling

_log = logging.getLogger(__name__)
TEMPLATE_FAULTS: Final = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""what a chat template may raise that refuses a conversation"""
_NAME: Final = "entropick_probe"
_OTHER: Final = "entropick_other"
_ARGUMENTS: Final = {"entropick_key": "entropick_value"}
_LONG_ID: Final = "call_000000000000000000000001"
_SHORT_ID: Final = "call00001"
_RESULT: Final = "entropick_result"
_USER: Final = {"role": "user", "content": "Hi"}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"entropick_key": {"type": "string", "description": "A key."}},
            "required": ["entropick_key"],
        },
    },
}


Render = Callable[..., str]
"""renders messages by a model's chat template, with ``tools`` and variables of the template"""


class _ChatTemplate:
    """A model's chat template as something that can be asked; ``telling``: tools are told it as text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, render: Render, telling: Telling | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._render = render
        self.telling = telling
        self.source = str(tokenizer.get_chat_template())
        # a template for tools alone may fail without them
        before, opened = "", ""
        for tools in (None, [_TOOL]):
            before = before or self.write([_USER], tools=tools) or ""
            opened = opened or self.write([_USER], tools=tools, add_generation_prompt=True) or ""
        header = opened[len(before) :] if opened.startswith(before) else ""
        self.opening = header.partition(THINK)[0]
        """the beginning of the assistant's turn, without marks of reasoning; "" where it has no header"""
        self.anchors = [self.opening] if self.opening else self._ends(before)
        """texts behind which the assistant's turn begins"""
        shown = _NAME in (self.write([_USER], tools=[_TOOL]) or "")
        self.takes_tools = shown and (telling is None or bool(self.anchors))
        """a conversation shows the tools, and a reply to it can be told from them"""

    def write(
        self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]] | None, **options: Any
    ) -> str | None:
        """Returns a conversation as text; None where the template refuses it."""
        if self.telling is not None:
            messages, tools = self.telling.turns(messages, tools or ()), None
        try:
            return self._render(messages, tools=tools, **options)
        except TemplateLimitError:
            # every further question would take as long
            raise
        except TEMPLATE_FAULTS:
            return None

    def _ends(self, before: str) -> list[str]:
        """Returns how the turns end that the assistant answers: the user's, and a tool's."""
        function = {"name": _NAME, "arguments": _ARGUMENTS}
        called = {
            "role": "assistant",
            "content": "",
            CALLS_FIELD: [{"id": _SHORT_ID, "type": "function", "function": function}],
        }
        result = {"role": "tool", "content": _RESULT, "tool_call_id": _SHORT_ID, "name": _NAME}
        told = self.write([_USER, called, result], tools=[_TOOL]) or ""
        ends = [before.rpartition(_USER["content"])[2], told.partition(_RESULT)[2]]
        return list(dict.fromkeys(end for end in ends if end))

    def calls(self, names: list[str], call_id: str) -> str | None:
        """Returns an assistant's turn that calls tools, without the marks at its beginning and its end."""
        function = {"arguments": _ARGUMENTS}
        calls = [{"id": call_id, "type": "function", "function": {"name": n, **function}} for n in names]
        turn = {"role": "assistant", "content": "", CALLS_FIELD: calls}
        text = self.write([_USER, turn], tools=[_TOOL])
        before = self.write([_USER], tools=[_TOOL])
        if text is None or before is None or not text.startswith(before):
            return None
        text = text[len(before) :].removeprefix(self.opening)
        return text.partition(str(self._tokenizer.eos_token))[0] if self._tokenizer.eos_token else text


def reply_format(tokenizer: PreTrainedTokenizerBase, render: Render | None = None) -> ReplyFormat:
    """Finds the form of the replies of a tokenizer's model.

    ``render``: runs its chat template; None: transformers does. Nothing is found where that breaks a limit.
    """

    def decode(ids: list[int]) -> str:
        return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False))

    if not getattr(tokenizer, "chat_template", None):
        return ReplyFormat(decode)
    try:
        return _probed(tokenizer, decode, render or partial(_by_transformers, tokenizer))
    except TemplateLimitError as error:
        _log.warning("chats will fail: %s", error)
        return ReplyFormat(decode)


def _by_transformers(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **options: Any
) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _probed(tokenizer: PreTrainedTokenizerBase, decode: Decode, render: Render) -> ReplyFormat:
    """Asks the chat template. Raises TemplateLimitError."""
    chat = _asked(tokenizer, render)
    call_id = next((i for i in (_LONG_ID, _SHORT_ID) if chat.calls([_NAME], i)), None)
    template = _own(tokenizer)
    if chat.telling is not None:
        template = _as_told(chat, template)
    elif template is None and chat.anchors:
        template = _found(chat, call_id)
    if template is None:
        return ReplyFormat(decode, chat.takes_tools)
    lenient = replace(
        template, fields={name: replace(field, optional=True) for name, field in template.fields.items()}
    )
    has_calls = CALLS_FIELD in lenient.fields
    call_form = _call_form(chat, lenient, call_id) if has_calls and call_id else None
    plain = without_calls(lenient)
    return ReplyFormat(
        decode,
        chat.takes_tools,
        # a field for nothing but text makes no parts
        Reading.of(plain, _marks(tokenizer, plain)) if len(plain.fields) > 1 else None,
        Reading.of(lenient, _marks(tokenizer, lenient)) if has_calls else None,
        call_form if chat.telling is None else CallForm(*TOLD_CALL),
        len(_SHORT_ID) if call_id == _SHORT_ID else None,
        chat.telling,
    )


def _asked(tokenizer: PreTrainedTokenizerBase, render: Render) -> _ChatTemplate:
    """Returns a tokenizer's chat template, with tools told as text where only that shows them."""
    plain = _ChatTemplate(tokenizer, render)
    if plain.takes_tools:
        return plain
    told = (_ChatTemplate(tokenizer, render, Telling(in_system)) for in_system in (True, False))
    return next((chat for chat in told if chat.takes_tools), plain)


def _as_told(chat: _ChatTemplate, own: ResponseTemplate | None) -> ResponseTemplate:
    """Returns a model's own response template, or that of the table, with calls in the form told."""
    told = dict(_candidates(chat))[TOLD_FORM]
    if own is None:
        return told
    return replace(own, fields={**own.fields, CALLS_FIELD: told.fields[CALLS_FIELD]})


def _own(tokenizer: PreTrainedTokenizerBase) -> ResponseTemplate | None:
    """Returns the response template that the tokenizer brings; None for none that can be read."""
    given = getattr(tokenizer, "response_template", None)
    if given is None:
        return None
    try:
        return load_response_template(given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("the model's response_template cannot be used: %s", str(error)[:300])
        return None


def _found(chat: _ChatTemplate, call_id: str | None) -> ResponseTemplate | None:
    """Returns the template of the table that reads what the chat template writes; None for none."""
    written = None if call_id is None else chat.calls([_NAME], call_id)
    for name, template in _candidates(chat):
        if name is None or (written is not None and _parsed(template, written) == [_wanted(_NAME)]):
            return template
    return None


def _candidates(chat: _ChatTemplate) -> Iterator[tuple[str | None, ResponseTemplate]]:
    """Yields the templates of the table, filled in for a model; at last the one without calls (None)."""
    reasoning = {"reasoning_content": dict(REASONING)} if THINK_END in chat.source else {}
    for name, calls in (*CALLS.items(), (None, None)):
        fields = {
            "content": {"content": "text"},
            **reasoning,
            **({CALLS_FIELD: dict(calls)} if calls else {}),
        }
        if len(fields) > 1:
            yield name, load_response_template({"start_anchor": chat.anchors, "fields": fields})


def _wanted(name: str) -> Call:
    return Call(name, json.dumps(_ARGUMENTS))


def _parsed(template: ResponseTemplate, text: str) -> list[Call]:
    """Returns the calls that a template finds in a reply."""
    parser = ReplyParser(template, readable(template), "", [])
    return [part for part in [*parser.feed(text), *parser.finish()] if isinstance(part, Call)]


def _call_form(chat: _ChatTemplate, template: ResponseTemplate, call_id: str) -> CallForm | None:
    """Returns how the chat template writes a call, where it writes the arguments as JSON."""
    written = chat.calls([_NAME], call_id) or ""
    arguments = next((a for a in _spelled() if a in written), None)
    if arguments is None or _NAME not in written:
        return None
    begin, _, rest = written.partition(_NAME)
    middle, _, end = rest.partition(arguments)
    # some templates write that nothing was thought before the call
    begin = begin.rpartition(THINK_END)[2].lstrip()
    middle, end = _without_id(middle, call_id), _without_id(end, call_id).rstrip()
    both = (chat.calls([_NAME, _OTHER], call_id) or "").partition(arguments)[2].partition(_OTHER)[0]
    apart = both.startswith(end) and both.endswith(begin) and len(both) >= len(end) + len(begin)
    between = both[len(end) : len(both) - len(begin)] if apart and begin else None
    form = CallForm(begin, middle, end, between)
    example = f"{begin}{_OTHER}{middle}{json.dumps(_ARGUMENTS)}{end}"
    return form if _parsed(template, example) == [_wanted(_OTHER)] else None


def _spelled() -> list[str]:
    return [json.dumps(_ARGUMENTS, separators=pair) for pair in ((", ", ": "), (",", ":"))]


def _without_id(end: str, call_id: str) -> str:
    """Returns a text of a call without the part that holds the call's id."""
    for member in (
        f', "id": "{call_id}"',
        f',"id":"{call_id}"',
        f', "id":"{call_id}"',
        f"[CALL_ID]{call_id}",
    ):
        end = end.replace(member, "")
    return end


def _marks(tokenizer: PreTrainedTokenizerBase, template: ResponseTemplate) -> Mapping[int, bytes]:
    """Returns the special tokens that are part of a template's opening and closing marks."""
    patterns = [p.pattern for f in template.fields.values() for p in (f.open_re, f.close_re) if p is not None]
    text = "\n".join(patterns).replace("\\", "")
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {i: t.content.encode() for i, t in added.items() if t.special and t.content in text}
