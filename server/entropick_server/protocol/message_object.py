"""The message that a chat choice gives back, whole and in the stretches of a stream."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class CalledFunction(BaseModel):
    """The function that a call names, and the JSON text of its arguments."""

    name: str
    arguments: str


class ToolCallRow(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(BaseModel):
    """The message that the model generated."""

    role: Literal["assistant"]
    content: str | None = Field(description="null of a message that holds nothing but calls")
    refusal: None = None
    reasoning_content: str | None = Field(
        default=None, description="of a model that thinks before it answers; absent elsewhere"
    )
    tool_calls: list[ToolCallRow] | None = Field(default=None, description="absent where no tool is called")


class CalledFunctionDelta(BaseModel):
    """The name of a function, or its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """The beginning of a call, or its arguments, by the call's number in the message."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionDelta


class ChatDelta(BaseModel):
    """A stretch of a message, or its role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
