"""The tools of a request: whether the model can have them, how replies are read, which calls are forced."""

from __future__ import annotations

from ..protocol.errors import bad_request
from ..protocol.structured import Structure
from ..protocol.tools import ToolFields
from ..protocol.unserved import UNSUPPORTED
from ..state import ServedModel
from ..streaming.message import MessageForm


def message_form(body: ToolFields, model: ServedModel) -> MessageForm | None:
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
    return MessageForm(form, reading, definitions, body.calls_once, bool(body.forced))


def forced_call(body: ToolFields, model: ServedModel) -> Structure | None:
    """Returns the form of a reply that must be a call; None where it may be text.

    Raises the 400 where it is not known how the model writes a call.
    """
    forced = body.forced
    if not forced:
        return None
    form = None if model.reply_format is None else model.reply_format.call_form
    if form is None:
        message = "tool_choice: how this model writes a call is not known, so none can be forced; use 'auto'."
        raise bad_request(message, "tool_choice", UNSUPPORTED)
    schemas = {tool.function.name: tool.function.schema_of_forced_arguments for tool in forced}
    return Structure(form.grammar(schemas, several=not body.calls_once), "tool_choice")
