"""The fields of a request that change logits: penalties, biases, bans and allowed tokens."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StringConstraints

from entropick_sampler.reply_adjustments import MAX_BIAS, PENALTY_LIMIT, REPETITION_LIMIT

from .lists import AtMost
from .parsing import WireModel

MAX_BIASES: Final = 1024
MAX_BAD_WORDS: Final = 128
MAX_BAD_WORD_LENGTH: Final = 256
MAX_ALLOWED: Final = 1 << 18
_WORD_SIZE: Final = 32
"""characters that take as long to tokenise as the call for one more word"""
_IDS_PER_CHARACTER: Final = 8


def _biases(value: Any) -> Any:
    """Returns the entries of ``logit_bias`` by token id. Raises ValueError that names what is wrong."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    if len(value) > MAX_BIASES:
        raise ValueError(f"logit_bias may have at most {MAX_BIASES} entries")
    made = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 10):
            raise ValueError("the keys of logit_bias must be token ids, as strings")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise ValueError("the values of logit_bias must be numbers")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise ValueError(f"the values of logit_bias must be between {-MAX_BIAS} and {MAX_BIAS}")
        if int(key) in made:
            raise ValueError("logit_bias names a token id twice")
        made[int(key)] = float(bias)
    return made


BadWord = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BAD_WORD_LENGTH)]


class AdjustmentFields(WireModel):
    """The fields that change logits; their meaning: docs/api.md."""

    presence_penalty: float | None = Field(
        None,
        ge=-PENALTY_LIMIT,
        le=PENALTY_LIMIT,
        description="is taken off the logit of every token that stands in the reply",
    )
    frequency_penalty: float | None = Field(
        None,
        ge=-PENALTY_LIMIT,
        le=PENALTY_LIMIT,
        description="is taken off the logit of a token as often as it stands in the reply",
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=REPETITION_LIMIT,
        description="divides the positive logits of tokens in prompt and reply, multiplies the others",
    )
    logit_bias: Annotated[
        dict[int, float] | None, BeforeValidator(_biases, json_schema_input_type=dict[str, float] | None)
    ] = Field(None, description="token id -> what is added to its logit, -100 to 100")
    min_tokens: int | None = Field(
        None, ge=0, le=2**31 - 1, description="tokens before which nothing ends the reply"
    )
    bad_words: Annotated[list[BadWord], AtMost(MAX_BAD_WORDS)] | None = Field(
        None, description="texts that the reply must not spell"
    )
    allowed_token_ids: Annotated[list[int], Field(min_length=1), AtMost(MAX_ALLOWED)] | None = Field(
        None, description="the only tokens that may be drawn"
    )

    @property
    def adjusting_size(self) -> int:
        """Returns the characters that take as long to tokenise as the fields to lay out."""
        words = sum(2 * (_WORD_SIZE + len(word)) for word in self.bad_words or ())
        return words + (len(self.allowed_token_ids or ()) + len(self.logit_bias or ())) // _IDS_PER_CHARACTER
