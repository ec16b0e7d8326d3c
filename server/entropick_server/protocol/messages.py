"""The messages of a conversation, as OpenAI allows them: a role each, and text, whole or in parts."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from .bounds import MAX_MESSAGES
from .lists import AtMost
from .parsing import IN_PARTS, WHOLE, WireModel
from .tools import MAX_CALLS, PastCall

MAX_PARTS: Final = 4096


class TextPart(WireModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str

    @property
    def words(self) -> str:
        """Returns the text."""
        return self.text


class RefusalPart(WireModel):
    """A part of an assistant's message in which it declined."""

    type: Literal["refusal"]
    refusal: str

    @property
    def words(self) -> str:
        """Returns the text of the refusal."""
        return self.refusal


def _form(value: Any) -> str | None:
    return WHOLE if isinstance(value, str) else IN_PARTS if isinstance(value, list) else None


_BY_FORM: Final = Discriminator(
    _form, custom_error_type="content_form", custom_error_message="must be a string or a list of parts"
)
Text = Annotated[str, Tag(WHOLE)]
TextParts = Annotated[list[TextPart], AtMost(MAX_PARTS), Tag(IN_PARTS)]
Content = Annotated[Text | TextParts, _BY_FORM]
"""text whole or in parts; nothing that a part may name is ever fetched or read"""
ReplyPart = Annotated[TextPart | RefusalPart, Discriminator("type")]
ReplyParts = Annotated[list[ReplyPart], AtMost(MAX_PARTS), Tag(IN_PARTS)]
ReplyContent = Annotated[Text | ReplyParts, _BY_FORM]


class _Turn(WireModel):
    """The base of the messages."""

    name: str | None = Field(
        None, description="tells speakers of one role apart, where the template reads it"
    )

    @property
    def parts(self) -> list[str] | None:
        """Returns the texts of the parts; None where the text came whole, or is none."""
        content: Any = getattr(self, "content", None)
        return [part.words for part in content] if isinstance(content, list) else None

    @property
    def text(self) -> str:
        """Returns the whole text, of which each part is a line."""
        content: Any = getattr(self, "content", None)
        return "\n".join(self.parts or ()) if content is None or isinstance(content, list) else str(content)

    @property
    def size(self) -> int:
        """Returns the number of the text's characters."""
        return len(self.text)

    @property
    def extras(self) -> dict[str, Any]:
        """Returns what a chat template reads of the message beside role, name and text."""
        return {}


class InstructionMessage(_Turn):
    """A message of the system, or of the developer, which newer models of OpenAI have in its place."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(_Turn):
    """A message of the user."""

    role: Literal["user"]
    content: Content


class AssistantMessage(_Turn):
    """A message of the assistant, which may have said nothing, or declined."""

    role: Literal["assistant"]
    content: ReplyContent | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(None, description="what the model thought before it answered")
    tool_calls: Annotated[list[PastCall], AtMost(MAX_CALLS)] | None = None

    @property
    def text(self) -> str:
        """Returns the whole text; the refusal where there is no other."""
        return super().text or self.refusal or ""

    @property
    def size(self) -> int:
        """Returns the number of characters of text, calls and reasoning."""
        calls = sum(len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text) + len(self.reasoning_content or "") + calls

    @property
    def extras(self) -> dict[str, Any]:
        """Returns the reasoning and the calls, with their arguments as objects."""
        extras: dict[str, Any] = {}
        if self.reasoning_content is not None:
            extras["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            extras["tool_calls"] = [call.turn for call in self.tool_calls]
        return extras


class ToolMessage(_Turn):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(min_length=1, max_length=256, description="the id of the call")

    @property
    def extras(self) -> dict[str, Any]:
        """Returns the id of the call."""
        return {"tool_call_id": self.tool_call_id}


Message = Annotated[InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")]
Messages = Annotated[list[Message], Field(min_length=1), AtMost(MAX_MESSAGES)]
