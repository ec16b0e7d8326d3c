"""From the fields of a body that change logits to the sampling fields of the engine's requests."""

from __future__ import annotations

from dataclasses import replace

from entropick_sampler.params import SamplingParams
from entropick_sampler.reply_adjustments import check_adjustments

from ..engine.base import Tokenizer
from ..engine.types import ModelInfo
from ..protocol.adjustments import AdjustmentFields
from ..protocol.errors import bad_request


def adjusted(
    sampling: SamplingParams, body: AdjustmentFields, tokenizer: Tokenizer, repetition: float = 1.0
) -> SamplingParams:
    """Returns the sampling fields with a body's adjustments.

    ``repetition``: the repetition penalty where the body names none.
    """
    allowed = body.allowed_token_ids
    return replace(
        sampling,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=repetition if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=tuple((body.logit_bias or {}).items()),
        min_tokens=body.min_tokens or 0,
        bad_words=bad_word_ids(body.bad_words or (), tokenizer),
        allowed_token_ids=None if allowed is None else tuple(dict.fromkeys(allowed)),
    )


def bad_word_ids(words: list[str] | tuple[str, ...], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Returns the token ids of each word, as it begins a text and as it stands behind a space.

    vLLM drops the second form where it has another number of tokens, and then says the word. Raises the 400
    for a word without a token.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in dict.fromkeys(words):
        text = word.lstrip()
        plain, behind = (
            tuple(tokenizer.encode(prefix + text, add_special_tokens=False)) for prefix in ("", " ")
        )
        if not plain:
            raise bad_request("bad_words: every word must have a token of its own.", "bad_words")
        found[plain] = None
        if behind:
            found[behind] = None
    return tuple(found)


def check_adjusted(sampling: SamplingParams, info: ModelInfo) -> None:
    """Raises the 400 for adjustments that no reply of the model can have."""
    try:
        check_adjustments(sampling, info.vocab_size)
    except ValueError as error:
        raise bad_request(f"{error}.", str(error).partition(":")[0]) from error
