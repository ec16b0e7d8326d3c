"""The items that a request to /v1/responses gives as its input, and the conversation that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from .errors import bad_request
from .lists import AtMost
from .parsing import WireModel
from .tools import Arguments, ToolName
from .unserved import UNSUPPORTED

MAX_ITEMS: Final = 4096
MAX_PARTS: Final = 4096
_TEXTS: Final = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_NOT_SERVED: Final = {
    "item_reference": "nothing is stored here; send the item itself",
    "previous_response": "nothing is stored here; send the conversation's items",
}


class ItemPart(WireModel):
    """A part of an item's content: text, or a refusal."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    @property
    def words(self) -> str:
        """Returns the text of the part."""
        return self.text or self.refusal or ""


Parts = Annotated[list[ItemPart], AtMost(MAX_PARTS)]


def _text(content: str | Sequence[ItemPart] | None) -> str:
    return content if isinstance(content, str) else "\n".join(part.words for part in content or ())


class MessageInput(WireModel):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts

    @property
    def said(self) -> str:
        """Returns the text of the message."""
        return _text(self.content)


class CallInput(WireModel):
    """A call of a tool that the model made before."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: ToolName
    arguments: Arguments

    @property
    def past(self) -> dict[str, Any]:
        """Returns the call as a chat message holds it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class OutputInput(WireModel):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: str | Parts


class ReasoningInput(WireModel):
    """The reasoning of an earlier reply."""

    type: Literal["reasoning"]
    content: Parts | None = None
    summary: Parts | None = None


def _form(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type", "message")
    if isinstance(kind, str) and kind not in _KINDS:
        why = _NOT_SERVED.get(kind, f"items of type {kind[:40]!r} are not served")
        raise bad_request(f"input: {why}.", "input", UNSUPPORTED)
    return kind if isinstance(kind, str) else None


_KINDS: Final = ("message", "function_call", "function_call_output", "reasoning")
InputItem = Annotated[
    Annotated[MessageInput, Tag("message")]
    | Annotated[CallInput, Tag("function_call")]
    | Annotated[OutputInput, Tag("function_call_output")]
    | Annotated[ReasoningInput, Tag("reasoning")],
    Discriminator(
        _form, custom_error_type="item_form", custom_error_message="must be an object with a type or a role"
    ),
]


def conversation(items: Sequence[Any], instructions: str | None) -> list[dict[str, Any]]:
    """Returns items as chat messages.

    Reasoning, text and calls that follow each other are one message of the assistant.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    turn: dict[str, Any] | None = None
    for item in items:
        if isinstance(item, OutputInput):
            turn = None
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        elif isinstance(item, MessageInput) and item.role != "assistant":
            turn = None
            messages.append({"role": item.role, "content": item.said})
        else:
            if turn is None or (isinstance(item, MessageInput | ReasoningInput) and _is_full(turn)):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            _add(turn, item)
    return messages


def _is_full(turn: dict[str, Any]) -> bool:
    """Tells whether text or reasoning that comes now belongs to another message."""
    return bool(turn["content"]) or "tool_calls" in turn


def _add(turn: dict[str, Any], item: Any) -> None:
    if isinstance(item, CallInput):
        turn.setdefault("tool_calls", []).append(item.past)
    elif isinstance(item, ReasoningInput):
        turn["reasoning_content"] = _text(item.content or item.summary)
    else:
        turn["content"] = item.said
