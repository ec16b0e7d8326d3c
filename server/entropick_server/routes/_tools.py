"""The tools of a request: whether the model can have them, how replies are read, the form of their calls."""

from __future__ import annotations

from ..protocol.errors import bad_request
from ..protocol.requests import ChatRequest
from ..protocol.structured import Structure
from ..protocol.unserved import UNSUPPORTED
from ..state import ServedModel
from ..streaming.message import MessageForm


def message_form(body: ChatRequest, model: ServedModel) -> MessageForm | None:
    """Returns how the replies to a body are read; None: as text.

    Raises the 400 for tools that the model's chat template has no place for.
    """
    form, tools = model.reply_format, body.offered
    if tools and (form is None or not form.takes_tools):
        message = "tools: this model's chat template has no place for tools; leave them out."
        raise bad_request(message, "tools", UNSUPPORTED)
    reading = None if form is None else (form.calling if tools else None) or form.plain
    if form is None or reading is None:
        return None
    definitions = tuple(tool.definition for tool in tools)
    return MessageForm(form, reading, definitions, body.calls_once, bool(body.forced or body.structure))


def call_structure(body: ChatRequest, model: ServedModel) -> Structure | None:
    """Returns the form of a reply that must be a call, or that is a call where it is not the JSON asked for.

    None where it is text, or may be any text. Raises the 400 where it is not known how the model writes a
    call, and for a form of the text that does not go with calls.
    """
    asked, tools = body.structure, body.forced or body.offered
    if not tools or (asked is None and not body.forced):
        return None
    otherwise = None if asked is None or body.forced else asked.grammar.schema
    form = None if model.reply_format is None else model.reply_format.call_form
    if asked is not None:
        # a call without a mark before its JSON is not told from JSON
        if otherwise is None or form is None or form.begin.lstrip().startswith("{"):
            name, choice = asked.field.partition(".")[0], "tool_choice" if body.forced else "tools"
            message = f"not together with {choice}; tool_choice 'none' leaves the tools out"
            raise bad_request(f"{name}: {message}.", name)
    elif form is None:
        message = "tool_choice: how this model writes a call is not known, so none can be forced; use 'auto'."
        raise bad_request(message, "tool_choice", UNSUPPORTED)
    schemas = {tool.function.name: tool.function.schema_of_forced_arguments for tool in tools}
    grammar = form.grammar(schemas, several=not body.calls_once, otherwise=otherwise)
    return Structure(grammar, "tool_choice" if asked is None else asked.field)
