"""The body of POST /v1/responses, which becomes a chat request.

A response is stateless: nothing is stored, so whatever names something stored is refused. Fields that are not
OpenAI's (seed, top_k, the penalties, structured_outputs, ...) mean what they mean in a chat request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from .errors import bad_request, shown
from .lists import AtMost
from .options import EntropickOptions
from .output_options import MAX_TOP_LOGPROBS
from .parsing import AMONG, IN_PARTS, WHOLE, WireModel, checked
from .requests import ChatRequest, Count, ModelRequest
from .response_items import MAX_ITEMS, InputItem, conversation
from .tools import MAX_TOOLS, ToolName, choice_form
from .unserved import UNSUPPORTED

LOGPROBS: Final = "message.output_text.logprobs"
_ENCRYPTED: Final = "reasoning.encrypted_content"
"""asked for by clients that store nothing; reasoning comes back as it is"""
_STATELESS: Final = "nothing is stored here; send the conversation as input"
_REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "previous_response_id": ((), _STATELESS),
    "conversation": ((), _STATELESS),
    "prompt": ((), "there are no stored prompts here; send input"),
    "background": ((False,), "a response is answered at once; leave it out"),
    "truncation": (("disabled",), "use truncate_prompt_tokens"),
    "max_tool_calls": ((), "the server has no tools of its own; leave it out"),
    "context_management": ((), "leave it out"),
    "messages": ((), "use input"),
    "max_tokens": ((), "use max_output_tokens"),
    "max_completion_tokens": ((), "use max_output_tokens"),
    "n": ((1,), "a response is one reply; leave it out"),
    "logprobs": ((False,), f"use include with '{LOGPROBS}'"),
    "response_format": (({"type": "text"},), "use text.format"),
    "prompt_logprobs": ((), "use /v1/chat/completions"),
    "return_token_ids": ((False,), "use entropick.telemetry"),
    "continue_final_message": ((False,), "use /v1/chat/completions"),
    "add_generation_prompt": ((True,), "use /v1/chat/completions"),
}
"""field -> the values that ask for nothing, and what to do without it"""


class FunctionTool(WireModel):
    """A function that the model may call, in the flat form of this route."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def of_chat(self) -> dict[str, Any]:
        """Returns the tool in the form of chat completions."""
        return {"type": "function", "function": self.model_dump(exclude_unset=True, exclude={"type"})}


class FunctionChoice(WireModel):
    """The choice of one function, which the model must call."""

    type: Literal["function"]
    name: str

    @property
    def of_chat(self) -> dict[str, Any]:
        """Returns the choice in the form of chat completions."""
        return {"type": "function", "function": {"name": self.name}}


class AllowedChoice(WireModel):
    """The choice of several tools, in the flat form of this route."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1), AtMost(MAX_TOOLS)]

    @property
    def of_chat(self) -> dict[str, Any]:
        """Returns the choice in the form of chat completions."""
        allowed = {"mode": self.mode, "tools": [tool.of_chat for tool in self.tools]}
        return {"type": self.type, "allowed_tools": allowed}


class TextFormat(WireModel):
    """The form that the text must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise bad_request("text.format.schema: is required.", "text.format.schema")
        return self

    @property
    def of_chat(self) -> dict[str, Any]:
        """Returns the ``response_format`` of chat completions."""
        if self.type != "json_schema":
            return {"type": self.type}
        told = self.model_dump(by_alias=True, exclude_unset=True, exclude={"type"})
        return {"type": self.type, "json_schema": told}


class TextOptions(WireModel):
    """The block ``text``."""

    format: TextFormat | None = None


def _form(value: Any) -> str | None:
    return WHOLE if isinstance(value, str) else IN_PARTS if isinstance(value, list | dict) else None


Input = Annotated[
    Annotated[str, Field(min_length=1), Tag(WHOLE)]
    | Annotated[list[InputItem], Field(min_length=1), AtMost(MAX_ITEMS), Tag(IN_PARTS)],
    Discriminator(
        _form, custom_error_type="input_form", custom_error_message="must be a text or a list of items"
    ),
]
Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(WHOLE)]
    | Annotated[FunctionChoice, Tag(IN_PARTS)]
    | Annotated[AllowedChoice, Tag(AMONG)],
    Discriminator(
        choice_form,
        custom_error_type="choice_form",
        custom_error_message="must be 'none', 'auto', 'required', or an object that names functions",
    ),
]


class ResponseChat(ChatRequest):
    """The chat request that a response is made of."""

    @property
    def limit_name(self) -> str:
        """Returns the name that this route gives to the most tokens."""
        return "max_output_tokens"


class ResponsesRequest(ModelRequest):
    """The body of POST /v1/responses."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    input: Input
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: Annotated[list[str], AtMost(16)] | None = None
    tools: Annotated[list[FunctionTool], AtMost(MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    entropick: EntropickOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_state(cls, data: Any) -> Any:
        for name, (harmless, advice) in _REFUSED.items():
            value = data.get(name) if isinstance(data, dict) else None
            if value is not None and value not in harmless:
                raise bad_request(f"'{name}' is not served; {advice}.", name, UNSUPPORTED)
        return data

    @model_validator(mode="after")
    def _serves(self) -> ResponsesRequest:
        for name in self.include or ():
            if name not in (LOGPROBS, _ENCRYPTED):
                raise bad_request(f"include: {shown(name)!r} is not served.", "include", UNSUPPORTED)
        names = [tool.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, FunctionChoice) and self.tool_choice.name not in names:
            name = "tool_choice.name"
            raise bad_request(f"{name}: no tool {shown(self.tool_choice.name)!r} is among tools.", name)
        if isinstance(self.tool_choice, AllowedChoice):
            for at, wanted in enumerate(self.tool_choice.tools):
                if wanted.name not in names:
                    name = f"tool_choice.tools[{at}].name"
                    raise bad_request(f"{name}: no tool {shown(wanted.name)!r} is among tools.", name)
        if self.entropick is not None and self.entropick.consensus:
            name = "entropick.consensus"
            raise bad_request(f"{name}: not on this route; use /v1/chat/completions.", name, UNSUPPORTED)
        return self

    def chat(self) -> ResponseChat:
        """Returns the chat request that asks for the same. Raises the 400."""
        extras = self.model_extra or {}
        data = {n: v for n, v in extras.items() if n in ChatRequest.model_fields and n not in _REFUSED}
        items = self.input
        if isinstance(items, str):
            turns = [{"role": "user", "content": items}]
            messages = [*conversation((), self.instructions), *turns]
        else:
            messages = conversation(items, self.instructions)
        wanted = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        return checked(
            ResponseChat,
            {
                **data,
                "model": self.model,
                "messages": messages,
                "stream": self.stream,
                "stream_options": None,
                "max_completion_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "logprobs": wanted,
                "top_logprobs": self.top_logprobs,
                "tools": None if self.tools is None else [tool.of_chat for tool in self.tools],
                "tool_choice": self._choice,
                "parallel_tool_calls": self.parallel_tool_calls,
                "response_format": self._format,
                "entropick": self.entropick,
            },
        )

    @property
    def echoed(self) -> dict[str, Any]:
        """Returns the fields that come back in the response."""
        chosen = "auto" if self.tool_choice is None else self.tool_choice
        form = None if self.text is None else self.text.format
        told = {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_unset=True)
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": None, "summary": None},
            "temperature": self.temperature,
            "text": {"format": told},
            "tool_choice": chosen if isinstance(chosen, str) else chosen.model_dump(),
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs,
            "top_p": self.top_p,
            "user": self.user,
            "metadata": self.metadata or {},
        }

    @property
    def _choice(self) -> Any:
        choice = self.tool_choice
        return choice.of_chat if isinstance(choice, FunctionChoice | AllowedChoice) else choice

    @property
    def _format(self) -> dict[str, Any] | None:
        form = None if self.text is None else self.text.format
        return None if form is None or form.type == "text" else form.of_chat
