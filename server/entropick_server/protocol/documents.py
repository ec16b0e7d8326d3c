"""The bodies of the answers that generate nothing: models, tokens, requests that ended, the policy, errors.

The routes write them as they are; these models describe them in /openapi.json.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from .responses import Summary


class ErrorDetail(BaseModel):
    """A refusal in OpenAI's words."""

    message: str
    type: str
    param: str | None = Field(description="path of the field that is at fault")
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


class Health(BaseModel):
    """The sign that requests are taken."""

    status: Literal["ok"]


class Load(BaseModel):
    """The load of the server, in vLLM's form."""

    server_load: int = Field(ge=0, description="prompts that wait or run")


class Version(BaseModel):
    """The server's version."""

    version: str


class ServedModelFacts(BaseModel):
    """The facts of a served model that OpenAI's card does not have."""

    architecture: str
    parameters: int
    vocab_size: int
    dtype: str
    device: str
    monitored_layers: list[int]
    profile: str | None


class ModelCard(BaseModel):
    """A served model under one of its ids."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    entropick: ServedModelFacts


class ModelList(BaseModel):
    """The served model under each of its ids."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokenized(BaseModel):
    """The tokens of a text or of a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = Field(description="as the vocabulary spells them; null unless asked for")


class Detokenized(BaseModel):
    """The text of tokens."""

    prompt: str


class RequestHead(BaseModel):
    """A finished choice without its text and its tokens."""

    id: str
    choice: int
    request_id: str
    summary: Summary


class RequestSeries(BaseModel):
    """The figures of a choice's tokens, a column each; further columns are parameters and signals."""

    index: list[int]
    token_id: list[int]
    token: list[str]
    strategy: list[str | None]
    forced: list[bool]


class RequestWhole(RequestHead):
    """A finished choice with all that is known of it."""

    text: str
    request: dict[str, Any] | None = Field(description="for /v1/completions; null where prompts are not kept")
    kept_token_ids: list[int]
    series: RequestSeries
    branches: list[dict[str, Any]]
    policy_parameters: dict[str, float | None]


class ExplainedToken(BaseModel):
    """A token with the rule that picked it."""

    index: int
    token: str
    token_id: int
    strategy: str | None
    forced: bool
    parameters: dict[str, float | None]
    signals: dict[str, float]
    probability: float | None
    how: str
    rule: str
    words: dict[str, str]


class ExplainedChoice(RequestHead):
    """A finished choice token by token."""

    text: str
    policy_parameters: dict[str, float | None]
    tokens: list[ExplainedToken]


class RequestList(BaseModel):
    """The last finished choices, newest first."""

    object: Literal["list"]
    data: list[RequestHead]


class RequestDocument(BaseModel):
    """The choices of a finished request."""

    object: Literal["request"]
    id: str
    choices: list[RequestWhole]


class ExplanationDocument(BaseModel):
    """The choices of a finished request, explained."""

    object: Literal["explanation"]
    id: str
    choices: list[ExplainedChoice]


class SignalFacts(BaseModel):
    """A row of the table of signals."""

    name: str
    unit: str
    group: str
    help: str
    metric: str | None


class PolicyDocument(BaseModel):
    """The defaults, presets and limits of the policy, the profile in force, and the table of signals."""

    default: dict[str, Any]
    presets: dict[str, dict[str, Any]]
    fixed: dict[str, Any]
    formulas: dict[str, dict[str, Any]]
    overrides: dict[str, dict[str, float | None]]
    branch: dict[str, Any]
    consensus: dict[str, Any]
    profile: dict[str, Any] | None
    quantile_levels: list[float]
    answer: list[str]
    strategies: list[str]
    hesitation: dict[str, Any]
    signals: list[SignalFacts]
