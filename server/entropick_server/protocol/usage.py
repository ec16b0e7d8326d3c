"""The counts of an answer's tokens."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PromptTokensDetails(BaseModel):
    """The block ``usage.prompt_tokens_details``."""

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """The block ``usage.completion_tokens_details``."""

    branch_tokens: int
    best_of_tokens: int = Field(
        default=0, description="of completions that best_of left out, part of completion_tokens; absent else"
    )
    consensus_tokens: int = Field(
        default=0, description="of replies that lost a vote, no part of completion_tokens; absent else"
    )


class Usage(BaseModel):
    """The counts of an answer's tokens, as OpenAI names them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
