"""The fields of a request that offer tools, and the calls in a conversation's history."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .bounds import Budget
from .errors import bad_request, shown
from .lists import AtMost
from .parsing import AMONG, IN_PARTS, WHOLE, WireModel

MAX_TOOLS: Final = 128
MAX_TOOL_CHARACTERS: Final = 1 << 16
"""of one tool's definition as JSON"""
MAX_CALLS: Final = 128
"""of one message"""
MAX_TEMPLATE_OPTIONS: Final = 32
_OPTION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED: Final = frozenset(
    {
        *("messages", "conversation", "conversations", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "tokenizer_kwargs", "padding"),
        *("truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("raise_exception", "strftime_now", "namespace", "range", "loop", "dict", "cycler", "joiner"),
        *("lipsum", "self", "caller", "varargs", "kwargs", "template_kwargs"),
    }
)
"""variables that a template gets from the server, and functions that it may call"""
ToolName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
_SAYS_WHAT_ELSE: Final = frozenset(
    {
        *("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"),
        *("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"),
    }
)
"""keywords by which a schema admits further properties"""
NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
"""the schema of a tool that defines none"""


class FunctionDefinition(WireModel):
    """A function that the model may call."""

    name: ToolName = Field(description="letters, digits, _ - and .")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments; left out: none"
    )
    strict: bool | None = Field(
        None,
        description="the schema holds to the letter where a call is forced (tool_choice), else it need not",
    )

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """Returns the JSON schema of the arguments, which are an object."""
        return {**NO_ARGUMENTS} if self.parameters is None else {"type": "object", **self.parameters}

    @property
    def schema_of_forced_arguments(self) -> dict[str, Any]:
        """Returns the schema that a forced call follows: declared arguments, unless it says more.

        JSON schemas admit what they do not name; a function does not take it.
        """
        schema = self.schema_of_arguments
        if "properties" not in schema or _SAYS_WHAT_ELSE & schema.keys():
            return schema
        return {**schema, "additionalProperties": False}


class Tool(WireModel):
    """A tool: a function."""

    type: Literal["function"]
    function: FunctionDefinition

    @model_validator(mode="before")
    @classmethod
    def _size(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(json.dumps(data, ensure_ascii=False)) > MAX_TOOL_CHARACTERS:
            raise ValueError(f"may have at most {MAX_TOOL_CHARACTERS} characters as JSON")
        return data

    @property
    def definition(self) -> dict[str, Any]:
        """Returns the definition as chat templates read it."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        function["parameters"] = self.function.schema_of_arguments
        return {"type": "function", "function": function}


class FunctionName(WireModel):
    """The name of a function."""

    name: str


class NamedTool(WireModel):
    """The choice of one function, which the model must call."""

    type: Literal["function"]
    function: FunctionName


class AllowedNames(WireModel):
    """The names of the tools that the model may call; ``mode``: whether a reply must be a call."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1), AtMost(MAX_TOOLS)]


class AllowedTools(WireModel):
    """The choice of several tools among the tools of a request."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedNames

    @property
    def names(self) -> list[str]:
        """Returns the names of the tools."""
        return [tool.function.name for tool in self.allowed_tools.tools]


def choice_form(value: Any) -> str | None:
    """Returns the tag of the form of a choice: a word, a function, or several tools."""
    if isinstance(value, dict):
        return AMONG if value.get("type") == "allowed_tools" else IN_PARTS
    return WHOLE if isinstance(value, str) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(WHOLE)]
    | Annotated[NamedTool, Tag(IN_PARTS)]
    | Annotated[AllowedTools, Tag(AMONG)],
    Discriminator(
        choice_form,
        custom_error_type="choice_form",
        custom_error_message="must be 'none', 'auto', 'required', or an object that names functions",
    ),
]


class TemplateFields(WireModel):
    """The fields that the model's chat template reads beside the messages."""

    tools: Annotated[list[Tool], AtMost(MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="variables of the model's chat template, as enable_thinking: numbers, texts, lists"
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _options(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is not None and len(values) > MAX_TEMPLATE_OPTIONS:
            raise ValueError(f"may have at most {MAX_TEMPLATE_OPTIONS} entries")
        for name, value in (values or {}).items():
            path = f"chat_template_kwargs.{shown(name)}"
            if not _OPTION_NAME.fullmatch(name) or name in _RESERVED or name.endswith("_token"):
                raise bad_request(f"{path}: the server sets it; it cannot be overridden.", path)
            if not _harmless(value):
                message = (
                    "must be a truth value, a number, a text of at most 1024 characters, or a list of them"
                )
                raise bad_request(f"{path}: {message}.", path)
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> TemplateFields:
        names = self.function_names
        if twice := [name for name in names if names.count(name) > 1]:
            raise bad_request(f"tools: two tools have the name {twice[0]!r}.", "tools")
        return self

    @property
    def function_names(self) -> list[str]:
        """Returns the names of the tools."""
        return [tool.function.name for tool in self.tools or ()]


class ToolFields(TemplateFields):
    """The fields about tools, and about the chat template."""

    tool_choice: ToolChoice | None = Field(
        None, description="auto where there are tools; required or a function: the reply is a call"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: a reply has at most one call")

    @model_validator(mode="after")
    def _choice_among_tools(self) -> ToolFields:
        choice = self.tool_choice
        if choice is None or choice in ("none", "auto"):
            return self
        if not self.tools:
            raise bad_request("tool_choice: needs tools to choose from.", "tool_choice")
        if isinstance(choice, NamedTool) and choice.function.name not in self.function_names:
            name = "tool_choice.function.name"
            raise bad_request(f"{name}: no tool {shown(choice.function.name)!r} is among tools.", name)
        if isinstance(choice, AllowedTools):
            for at, wanted in enumerate(choice.names):
                if wanted not in self.function_names:
                    name = f"tool_choice.allowed_tools.tools[{at}].function.name"
                    raise bad_request(f"{name}: no tool {shown(wanted)!r} is among tools.", name)
        return self

    @property
    def offered(self) -> tuple[Tool, ...]:
        """Returns the tools that the model may call: it sees no others, and none with tool_choice none."""
        if isinstance(self.tool_choice, AllowedTools):
            names = self.tool_choice.names
            return tuple(tool for tool in self.tools or () if tool.function.name in names)
        return () if self.tool_choice == "none" else tuple(self.tools or ())

    @property
    def offers_tools(self) -> bool:
        """Tells whether the replies may call tools."""
        return bool(self.offered)

    @property
    def forced(self) -> tuple[Tool, ...]:
        """Returns the tools among which the reply must choose; () where it may be text."""
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            return tuple(tool for tool in self.offered if tool.function.name == choice.function.name)
        if isinstance(choice, AllowedTools):
            return self.offered if choice.allowed_tools.mode == "required" else ()
        return self.offered if choice == "required" else ()

    @property
    def calls_once(self) -> bool:
        """Tells whether a reply may hold one call at most, as with a function that is named."""
        return self.parallel_tool_calls is False or isinstance(self.tool_choice, NamedTool)


def _harmless(value: Any) -> bool:
    """Tells whether a value is nothing that a template could spend long on."""
    if isinstance(value, list):
        return len(value) <= 64 and all(_harmless(v) and not isinstance(v, list) for v in value)
    if isinstance(value, str):
        return len(value) <= 1024
    return (
        value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 31)
    )


def _object_text(value: str, info: ValidationInfo) -> str:
    if isinstance(info.context, Budget):
        info.context.take(value)
    try:
        parsed = json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError("must be the JSON text of an object") from error
    if not isinstance(parsed, dict):
        raise ValueError("must be the JSON text of an object")
    return value


Arguments = Annotated[str, AfterValidator(_object_text)]
"""the JSON text of an object, or "" for none"""


class CalledFunction(WireModel):
    """The function of a call in the history."""

    name: ToolName
    arguments: Arguments

    @property
    def values(self) -> dict[str, Any]:
        """Returns the arguments as an object."""
        parsed = json.loads(self.arguments) if self.arguments.strip() else {}
        return dict(parsed)


class PastCall(WireModel):
    """A call in an assistant's message of the history."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction

    @property
    def turn(self) -> dict[str, Any]:
        """Returns the call as chat templates read it, with the arguments as an object."""
        function = {"name": self.function.name, "arguments": self.function.values}
        return {"id": self.id, "type": "function", "function": function}
