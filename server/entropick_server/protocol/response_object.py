"""The answer of /v1/responses: a response with its items, in OpenAI's form, and our block beside them.

Dumped with ``exclude_unset``: a field is on the wire where it was given, null or not.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .responses import ChoiceTelemetry, TokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(BaseModel):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class MessageItem(BaseModel):
    """A message of the assistant."""

    id: str
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCallItem(BaseModel):
    """A call of a tool, whose result names the ``call_id``."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    arguments: str


class ReasoningText(BaseModel):
    """The text of a model's reasoning."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class ReasoningItem(BaseModel):
    """The reasoning of a model that thinks before it answers."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: Status
    summary: list[Any]
    content: list[ReasoningText]


Item = MessageItem | FunctionCallItem | ReasoningItem


class IncompleteDetails(BaseModel):
    """The reason why a response ended early."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(BaseModel):
    """The error that ended a response."""

    code: str
    message: str


class InputTokensDetails(BaseModel):
    """The block ``usage.input_tokens_details``."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """The block ``usage.output_tokens_details``."""

    reasoning_tokens: int
    branch_tokens: int = Field(description="of branches that lost, no part of output_tokens")


class ResponseUsage(BaseModel):
    """The counts of a response's tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(BaseModel):
    """A response as a whole. The fields of the request come back in it, as at OpenAI."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    store: Literal[False]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int | None
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, Any] | None
    entropick: ChoiceTelemetry | None = Field(default=None, description="at the end of the response")
