"""The bodies that a client gets back.

Dumped with ``exclude_unset``: a field is on the wire where it was given, null or not.

The signal fields are generated from the table of signals.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import BaseModel, Field, GetJsonSchemaHandler, TypeAdapter, create_model
from pydantic.json_schema import JsonSchemaValue
from typing_extensions import TypedDict

from entropick_sampler.signals import SIGNALS

from .message_object import ChatDelta, ChatMessage
from .usage import Usage


class SignalStatistic(BaseModel):
    """The mean and maximum of a signal over the tokens of one choice."""

    mean: float
    max: float


_described: dict[str, Any] = {
    s.name: (float | None, Field(None, description=f"{s.help} Unit: {s.unit}.")) for s in SIGNALS
}
SignalValues: type[BaseModel] = create_model(
    "SignalValues", __doc__="The signals of one token; what could not be measured is absent.", **_described
)
_statistics: dict[str, Any] = {s.name: (SignalStatistic | None, None) for s in SIGNALS}
SignalStatistics: type[BaseModel] = create_model(
    "SignalStatistics", __doc__="Mean and maximum of each signal over a choice.", **_statistics
)


class _DescribedBy:
    """The schema of a generated model, which a type checker cannot see, for a field of any type."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, _: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(self._model.__pydantic_core_schema__)


class ParameterValues(TypedDict):
    """The parameters that a token was drawn with."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n_candidates: int


class CandidateRow(BaseModel):
    """A drawn candidate of a token."""

    token: str
    token_id: int
    logprob: float
    score: float


class ProbableRow(BaseModel):
    """One of the most probable tokens of a step, before and after the sampler."""

    token: str
    token_id: int
    probability: float = Field(description="in the measured distribution")
    final_probability: float = Field(description="of a draw: after temperature and filters")
    cut_by: Literal["temperature", "top_k", "top_p", "min_p"] | None = Field(
        description="the filter that left the token out; temperature: at 0 the most probable token alone is "
        "left; null: it could be drawn"
    )


class BranchRow(BaseModel):
    """One of the continuations that were rolled out from a token on."""

    text: str
    token_ids: list[int]
    score: float | None = Field(description="null where infinite")
    chosen: bool


class DetailRow(BaseModel):
    """The figures of telemetry ``full``: by monitored layer, and by head where a signal has heads."""

    layers: list[int]
    attention_entropy: list[list[float]] = Field(description="[layers][heads], bits")
    interaction_strength: list[list[float]] = Field(description="[layers][heads]")
    attention_to_previous: list[list[float | None]] = Field(
        description="[layers][heads]; null where the newest token sees no previous token"
    )
    per_layer: dict[str, list[float | None]]
    genuineness: list[list[float | None]] | None = Field(
        default=None, description="[layers][heads], over the window; absent where nothing watches"
    )
    token_cost: list[list[float | None]] | None = Field(
        default=None, description="[layers][heads], bits, over the window; absent unless asked for"
    )
    quadrant: list[list[str | None]] | None = Field(
        default=None,
        description="[layers][heads], each head's place in the plane; absent without cut points",
    )


class TokenRow(TypedDict):
    """One completion token as the sampler saw it. A plain dictionary: an answer has one for each token."""

    index: int
    token: str
    token_id: int
    strategy: str | None
    forced: bool
    parameters: Annotated[
        ParameterValues | None,
        Field(description="of a forced token: what the policy would have drawn with; null: not known"),
    ]
    signals: Annotated[Any, _DescribedBy(SignalValues), Field(description="signal name -> value")]
    only_choice: NotRequired[
        Annotated[bool, Field(description="masks left no other token; its entropy is 0; absent elsewhere")]
    ]
    eos: NotRequired[Annotated[bool, Field(description="the model's end of sequence; absent elsewhere")]]
    stop: NotRequired[
        Annotated[bool, Field(description="a stop_token_id that ended the answer; absent elsewhere")]
    ]
    layer_entropy: NotRequired[
        Annotated[
            dict[str, float],
            Field(description="layer -> bits, by the logit lens; absent unless asked for of this token"),
        ]
    ]
    detail: NotRequired[DetailRow]
    candidates: NotRequired[list[CandidateRow]]
    most_probable: NotRequired[
        Annotated[
            list[ProbableRow],
            Field(description="telemetry full: the 20 most probable tokens, and every token drawn here"),
        ]
    ]
    branches: NotRequired[
        Annotated[
            list[BranchRow],
            Field(description="telemetry full, of a token where branches opened; absent elsewhere"),
        ]
    ]


class ConsensusSummary(BaseModel):
    """A vote at a glance."""

    replies: int = Field(description="that were generated")
    answered: int = Field(description="of them, with an answer")
    answer: str | None = Field(description="that won, in the form in which answers are compared; null: none")
    share: float | None = Field(
        description="of the votes' weight that it has, 0 to 1; null without an answer"
    )
    rule: str
    reason: str = Field(
        description="why no more were drawn: agreed (the rule was content), decided (no other answer could "
        "win any more), exhausted (k)"
    )


class ReplyRow(BaseModel):
    """One of the replies that took part in a vote."""

    choice: int
    text: str
    token_ids: list[int]
    finish_reason: str
    answer: str | None
    weight: float
    chosen: bool


class ConsensusTelemetry(BaseModel):
    """A vote as its winner tells it."""

    summary: ConsensusSummary
    replies: list[ReplyRow] | None = None
    error_probability: float | None = None


class PullRow(BaseModel):
    """The change of a reply's genuineness from its first five scores to its last five."""

    start: float
    end: float
    delta: float
    pulled: bool | None = Field(
        default=None, description="whether delta is below the cut point; absent without one"
    )


class GenuinenessSummary(BaseModel):
    """The genuineness of a choice at its end; its means and maxima are among the signals."""

    form: Literal["normalised", "seed"]
    window: int = Field(description="steps of the window")
    score: float | None = Field(description="G of the last window, mean over heads; null: too few tokens")
    regions: dict[str, float] | None = Field(
        default=None, description="shares of the heads on the axis of G; absent without cut points"
    )
    quadrants: dict[str, float] | None = Field(
        default=None, description="shares of the heads in the plane; absent without token costs"
    )
    pull: PullRow | None = Field(default=None, description="absent for fewer than five scores")


class LayerEntropySummary(BaseModel):
    """The entropies of the layers over the tokens of a choice at which they were measured."""

    tokens: int = Field(description="at which all of its layers were measured")
    mean: dict[str, float] = Field(description="layer -> bits: the profile of the choice")
    expansions: float = Field(
        description="layers a token whose entropy lies above the asked layer's before, a mean over the tokens"
    )
    prunings: float = Field(description="the same for layers whose entropy lies below")


class PhaseSummary(BaseModel):
    """The reasoning of a choice, or the rest of it, at a glance."""

    tokens: int
    signals: Any = Field(description="signal name -> mean and max; SignalStatistics")
    strategies: dict[str, int]


class Summary(BaseModel):
    """One choice at a glance. ``seed`` and ``choice`` replay it."""

    seed: int
    choice: int = Field(description="its number among the choices made of its prompt: its draws depend on it")
    policy: str
    preset: str | None
    profile: str | None
    signals: Annotated[Any, _DescribedBy(SignalStatistics)] = Field(description="signal name -> mean and max")
    strategies: dict[str, int]
    forced_tokens: int
    branch_tokens: int = Field(description="of branches that lost; no part of the answer")
    only_choice_tokens: int = Field(
        default=0, description="to which masks left no alternative; signals leave them out; absent for none"
    )
    error_probability: float | None = Field(
        default=None,
        description="that the reply is wrong, by the profile's fit; absent where there is none that fits it",
    )
    consensus: ConsensusSummary | None = Field(
        default=None, description="of a reply that won a vote; absent elsewhere"
    )
    genuineness: GenuinenessSummary | None = Field(
        default=None, description="absent where the engine does not measure it, or the request wants none"
    )
    layer_entropy: LayerEntropySummary | None = Field(
        default=None, description="absent where the request asked for no layer's entropy"
    )
    phases: dict[Literal["reasoning", "content"], PhaseSummary] | None = Field(
        default=None,
        description="of a reply that reasons first: its reasoning and the rest; absent elsewhere",
    )


class ChoiceTelemetry(TypedDict, total=False):
    """The block ``choices[i].entropick``. A plain dictionary, as its rows are."""

    summary: Summary
    tokens: list[TokenRow]
    replies: Annotated[
        list[ReplyRow],
        Field(description="telemetry full, of a consensus: every reply; absent elsewhere"),
    ]


TELEMETRY: Final = TypeAdapter(ChoiceTelemetry)
"""the form of the block where it is no part of a model"""


class TopLogprob(BaseModel):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token with its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log probabilities of a chat choice, in OpenAI's form."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """The log probabilities of a completion choice, in OpenAI's older form."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="null: of a prompt's first token")
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(BaseModel):
    """A token at a place of the prompt, in vLLM's form."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""token id -> its figures, of each token of the prompt: the token itself and the most probable ones; null of
the first"""


class ChatChoice(BaseModel):
    """A finished choice of a chat answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: list[int] | None = Field(default=None, description="with return_token_ids; absent else")
    entropick: ChoiceTelemetry | None = None


class ChatChunkChoice(BaseModel):
    """A choice's next stretch in a chat stream."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None
    token_ids: list[int] | None = Field(default=None, description="with return_token_ids; absent else")
    entropick: ChoiceTelemetry | None = None


class CompletionChoice(BaseModel):
    """A choice of a completion answer, or in a stream its next stretch."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | None = Field(default=None, description="with return_token_ids; absent else")
    prompt_token_ids: list[int] | None = Field(
        default=None, description="with return_token_ids, in a stream on a choice's first chunk; absent else"
    )
    prompt_logprobs: PromptLogprobs | None = Field(default=None, description="absent unless asked for")
    entropick: ChoiceTelemetry | None = None


class Completion(BaseModel):
    """The envelope of all four kinds of answer."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChatChoice | ChatChunkChoice | CompletionChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = Field(
        default=None, description="of a chat answer, with return_token_ids, in a stream on the first chunk"
    )
    prompt_logprobs: PromptLogprobs | None = Field(
        default=None, description="of a chat answer; absent unless asked for"
    )


class ChatCompletion(BaseModel):
    """A whole answer to a conversation, as :class:`Completion` writes it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = Field(default=None, description="with return_token_ids")
    prompt_logprobs: PromptLogprobs | None = Field(default=None, description="absent unless asked for")


class CompletionText(BaseModel):
    """A whole answer to prompts, as :class:`Completion` writes it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
