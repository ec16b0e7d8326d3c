"""The bodies that a client may send: generation, /tokenize, /detokenize."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from .adjustments import AdjustmentFields
from .bounds import MAX_IDS
from .errors import bad_request
from .lists import AtMost
from .messages import Message, Messages
from .options import EntropickOptions
from .output_options import MAX_TOP_LOGPROBS, CompletionOutputFields, OutputFields
from .parsing import WireModel
from .structured import StructuredRequest
from .tools import TemplateFields, ToolFields

MAX_STOPS = 16
MAX_STOP_TOKENS = 64
MAX_PROMPTS = 64
COMPLETION_TOKENS = 16
"""tokens of a completion that names no limit"""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_StopList = Annotated[list[StopString], AtMost(MAX_STOPS)]
StopStrings = Annotated[_StopList, BeforeValidator(_as_list, json_schema_input_type=StopString | _StopList)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Choices = Annotated[int, Field(ge=1)]
"""the most that are allowed is a setting of the server: :meth:`GenerationRequest.check_choices`"""
TopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]


class StreamOptions(WireModel):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False
    continuous_usage_stats: bool | None = Field(
        None, description="with include_usage: every chunk tells the usage so far"
    )


class ModelRequest(WireModel):
    """The field that is in every body."""

    model: str | None = Field(None, description="the served model's id; left out: the one that is served")


class GenerationRequest(AdjustmentFields, OutputFields, StructuredRequest, ModelRequest):
    """The fields that chat and completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = Field(None, description="OpenAI's newer name of max_tokens; wins")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="-1 or 0: off")
    min_p: float | None = Field(None, ge=0, le=1)
    seed: Int64 | None = None
    n: Choices | None = Field(None, description="choices for each prompt, 1 where left out")
    stop: StopStrings | None = None
    stop_token_ids: Annotated[list[int], AtMost(MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    add_special_tokens: bool | None = Field(
        None,
        description="put the tokenizer's own tokens around the prompt; left out: around a text, not around a "
        "conversation, whose template has them",
    )
    entropick: EntropickOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options: only allowed with stream: true.", "stream_options")
        if (options := self.stream_options) is not None and options.continuous_usage_stats:
            name = "stream_options.continuous_usage_stats"
            if not options.include_usage:
                raise bad_request(f"{name}: only allowed with include_usage: true.", name)
        self.check_output(bool(self.stream))
        return self

    @property
    def limit(self) -> int | None:
        """Returns the most tokens that the client wants, None where it is silent."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_name(self) -> str:
        """Returns the name of the field with the limit; OpenAI's newer name wins over the older."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def default_limit(self) -> int | None:
        """Returns the most tokens where the client is silent; None: the model's number, or the context."""
        return None

    @property
    def choices(self) -> int:
        """Returns the number of choices for each prompt that come back."""
        return self.n or 1

    @property
    def completions(self) -> int:
        """Returns the number of choices for each prompt that are generated."""
        return self.choices

    @property
    def choices_name(self) -> str:
        """Returns the field that says how many choices are generated."""
        return "n" if self.completions == self.choices else "best_of"

    @property
    def offers_tools(self) -> bool:
        """Tells whether the replies may call tools."""
        return False

    def check_choices(self, most: int) -> None:
        """Raises the 400 for more than ``most`` completions of one prompt."""
        name = "n" if self.choices > most else self.choices_name
        if self.completions > most:
            raise bad_request(f"{name}: must be at most {most} (the server's max_n).", name)

    @property
    def alternatives(self) -> int | None:
        """Returns the number of alternatives to report beside each token; None for no log probabilities."""
        return None


class ChatRequest(ToolFields, GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    add_generation_prompt: bool | None = Field(
        None, description="end the prompt with the beginning of the assistant's turn; true where left out"
    )
    continue_final_message: bool | None = Field(
        None, description="leave the last message open, so that the reply continues it; false where left out"
    )
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    @model_validator(mode="after")
    def _one_end_of_the_prompt(self) -> ChatRequest:
        _check_end(self.messages, self.add_generation_prompt, self.continue_final_message)
        return self

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs: only allowed with logprobs: true.", "top_logprobs")
        return self

    @property
    def alternatives(self) -> int | None:
        """Returns None unless ``logprobs`` is true, else ``top_logprobs``."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _check_end(messages: list[Message], generation_prompt: bool | None, continues: bool | None) -> None:
    """Raises the 400 for a conversation that is to end in two ways, or whose last message is empty."""
    if not continues:
        return
    name = "continue_final_message"
    if generation_prompt is not False:
        message = f"{name}: not together with add_generation_prompt, which is true unless it is set to false."
        raise bad_request(message, name)
    if not messages[-1].text.strip():
        message = f"{name}: the last message is empty; leave it out and let add_generation_prompt be true."
        raise bad_request(message, name)


Prompt = str | list[int]
_PromptText = Annotated[str, Field(min_length=1)]
_PromptIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_IDS)]
_PromptForms = (
    _PromptText
    | Annotated[list[_PromptText], Field(min_length=1, max_length=MAX_PROMPTS)]
    | _PromptIds
    | Annotated[list[_PromptIds], Field(min_length=1, max_length=MAX_PROMPTS)]
)


def _prompts(value: Any) -> list[Prompt]:
    """Returns a list of prompts, made of one text, several texts, the ids of one prompt or of several."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, or token ids")
    if value and _is_ids(value):
        return [value]
    if not value:
        raise ValueError("must not be empty")
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"at most {MAX_PROMPTS} prompts in one request")
    for prompt in value:
        if not isinstance(prompt, str) and not (isinstance(prompt, list) and _is_ids(prompt)):
            raise ValueError("must be a string, a list of strings, or token ids")
        if not prompt:
            raise ValueError("must not be empty")
    return list(value)


def _is_ids(value: list[Any]) -> bool:
    return set(map(type, value)) <= {int}


class CompletionRequest(CompletionOutputFields, GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Annotated[list[Any], BeforeValidator(_prompts, json_schema_input_type=_PromptForms)]
    logprobs: TopLogprobs | None = None
    best_of: Choices | None = Field(
        None, description="completions to make of each prompt, of which the n best come back; left out: n"
    )

    @model_validator(mode="after")
    def _best_of_with_n(self) -> CompletionRequest:
        self.check_echo(best_of=self.completions > self.choices)
        if self.best_of is None or self.best_of == self.choices:
            return self
        if self.best_of < self.choices:
            raise bad_request("best_of: must be at least n.", "best_of")
        if self.stream:
            # which of them are the best is known at their end
            message = "best_of: can be streamed only where it equals n; leave stream or best_of out."
            raise bad_request(message, "best_of")
        return self

    @property
    def default_limit(self) -> int:
        """Returns OpenAI's 16 tokens, which clients of completions count on."""
        return COMPLETION_TOKENS

    @property
    def completions(self) -> int:
        """Returns ``best_of``, else ``n``."""
        return self.best_of or self.choices

    @property
    def alternatives(self) -> int | None:
        """Returns OpenAI's integer ``logprobs``."""
        return self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        """Returns the most alternatives that ``prompt_logprobs`` or ``logprobs`` with ``echo`` ask for."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((number for number in wanted if number is not None), default=None)


class TokenizeRequest(TemplateFields, ModelRequest):
    """The body of POST /tokenize: a text, or a conversation as the chat route would see it."""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(None, description="left out: of a text, not of messages")
    add_generation_prompt: bool | None = Field(None, description="true where left out")
    continue_final_message: bool | None = Field(None, description="false where left out")
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise bad_request("Exactly one of prompt and messages is required.", "prompt")
        if self.messages is not None:
            _check_end(self.messages, self.add_generation_prompt, self.continue_final_message)
        return self


class DetokenizeRequest(ModelRequest):
    """The body of POST /detokenize."""

    tokens: Annotated[list[int], AtMost(MAX_IDS)]
