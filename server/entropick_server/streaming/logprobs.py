"""Log probabilities on the wire: of a reply's tokens in OpenAI's two forms, of a prompt's in vLLM's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from ..engine.types import PromptToken
from ..protocol.responses import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)
from .pieces import NUMBERS, ROWS, JsonWriter, slices
from .run import ReplyToken, Run

_LEAST_LOGPROB: Final = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say"""


def chat_logprobs(
    run: Run, tokens: Sequence[ReplyToken], writer: JsonWriter | None = None
) -> ChatLogprobs | None:
    """Returns the log probabilities of a chat choice's tokens; None where the request wants none.

    They end where the text ends: a token that ended the reply, or that a stop string cut, has none.
    ``writer``: the rows are made while it writes them.
    """
    if run.request.sampling.logprobs is None:
        return None
    if writer is None:
        return ChatLogprobs(content=_rows(run, tokens), refusal=None)
    content = writer.later(_rows(run, some) for some in slices(tokens, ROWS))
    return ChatLogprobs.model_construct(content=content, refusal=None)


def _rows(run: Run, tokens: Sequence[ReplyToken]) -> list[TokenLogprob]:
    """Returns the rows of those tokens that lie in the text."""
    content = []
    for token in (reply.token for reply in tokens if _in_text(run, reply)):
        own = _top_logprob(run, token.token_id, token.logprob)
        tops = [_top_logprob(run, *pair) for pair in token.top_logprobs]
        content.append(TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=tops))
    return content


def completion_logprobs(
    run: Run, tokens: Sequence[ReplyToken], *, with_prompt: bool = False, writer: JsonWriter | None = None
) -> CompletionLogprobs | None:
    """Returns the log probabilities of a completion's tokens; None where the request wants none.

    They end where the text ends; where the prompt is echoed the token that ended the reply has a row too, so
    that there are as many as tokens. ``with_prompt``: the echoed prompt's come first.
    ``writer``: writes the lists in pieces.
    """
    wanted = run.request.sampling.logprobs
    if wanted is None:
        return None
    echo = run.echo
    rows = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    if with_prompt and echo is not None:
        rows.tokens += [_label(run, i) for i in echo.token_ids]
        rows.text_offset += echo.offsets
        # nothing stands before the first
        rows.token_logprobs += [None, *(_sayable(token.logprob) for token in run.prompt)]
        tops = [_tops(run, token.token_id, token.logprob, token.top[:wanted]) for token in run.prompt]
        rows.top_logprobs += [None, *tops]
    begin = 0 if echo is None else len(echo.text)
    for reply in tokens:
        if not (_in_text(run, reply) or (echo is not None and reply.ending)):
            continue
        token = reply.token
        rows.tokens.append(_label(run, token.token_id))
        rows.token_logprobs.append(_sayable(token.logprob))
        rows.top_logprobs.append(_tops(run, token.token_id, token.logprob, token.top_logprobs))
        rows.text_offset.append(begin + reply.offset)
    if writer is not None:
        rows.tokens = writer.later(slices(rows.tokens, NUMBERS))
        rows.token_logprobs = writer.later(slices(rows.token_logprobs, NUMBERS))
        rows.top_logprobs = writer.later(slices(rows.top_logprobs, NUMBERS // 16))
        rows.text_offset = writer.later(slices(rows.text_offset, NUMBERS))
    return rows


def prompt_logprobs(run: Run, writer: JsonWriter) -> PromptLogprobs | None:
    """Returns the log probabilities of a choice's prompt, which are made while ``writer`` writes them.

    Returns None where the request wants none back.
    """
    if run.output.prompt_logprobs is None:
        return None
    # nothing stands before the first
    first: Iterator[PromptLogprobs] = iter(([None],))
    stretches = chain(first, (_of_prompt(run, some) for some in slices(run.prompt, ROWS)))
    told: PromptLogprobs = writer.later(stretches)
    return told


def _of_prompt(run: Run, tokens: Sequence[PromptToken]) -> PromptLogprobs:
    """Returns the rows of some tokens of a prompt."""
    wanted, labels = run.output.prompt_logprobs, run.vocabulary.labels
    rows: PromptLogprobs = []
    for token in tokens:
        own = PromptLogprob(
            logprob=_sayable(token.logprob), rank=token.rank, decoded_token=labels[token.token_id]
        )
        row = {str(token.token_id): own}
        for rank, (token_id, logprob) in enumerate(token.top[:wanted], start=1):
            if token_id != token.token_id:
                row[str(token_id)] = PromptLogprob(
                    logprob=_sayable(logprob), rank=rank, decoded_token=labels[token_id]
                )
        rows.append(row)
    return rows


def _in_text(run: Run, reply: ReplyToken) -> bool:
    ended = reply.ending and not run.output.include_stop
    return not ended and not reply.beyond


def _sayable(logprob: float) -> float:
    # NaN is no more than it
    return logprob if logprob >= _LEAST_LOGPROB else _LEAST_LOGPROB


def _label(run: Run, token_id: int) -> str:
    return f"token_id:{token_id}" if run.output.tokens_as_ids else run.vocabulary.labels[token_id]


def _tops(run: Run, own: int, logprob: float, others: Iterable[tuple[int, float]]) -> dict[str, float]:
    """Returns the alternatives of a place by their texts, the token itself among them.

    Of several tokens that spell the same text the best value stays.
    """
    tops: dict[str, float] = {}
    for token_id, value in (*others, (own, logprob)):
        label = _label(run, token_id)
        tops[label] = max(_sayable(value), tops.get(label, _LEAST_LOGPROB))
    return tops


def _top_logprob(run: Run, token_id: int, logprob: float) -> TopLogprob:
    data = run.vocabulary.bytes[token_id]
    return TopLogprob(
        token=_label(run, token_id), logprob=_sayable(logprob), bytes=None if data is None else list(data)
    )
