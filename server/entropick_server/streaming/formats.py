"""How a choice looks on the wire: one format for chat, one for completions, each whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ..protocol.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChoiceTelemetry,
    CompletionChoice,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)
from ..telemetry import token_row
from ..vocabulary import Vocabulary
from .run import ReplyToken, Run

_LEAST_LOGPROB: Final = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say"""


class Format(Protocol):
    """What the two generating routes differ in."""

    prefix: str
    """of an answer's id"""
    whole_object: str
    chunk_object: str

    def whole(self, run: Run) -> ChatChoice | CompletionChoice:
        """Returns a finished choice."""
        ...

    def opening(self, run: Run) -> ChatChunkChoice | None:
        """Returns the chunk that a choice's stream begins with, if it has one."""
        ...

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken]) -> ChatChunkChoice | CompletionChoice:
        """Returns a stretch of text with the tokens that it completes."""
        ...

    def closing(self, run: Run, tokens: Sequence[ReplyToken]) -> ChatChunkChoice | CompletionChoice:
        """Returns the end: reason, summary, and the tokens that had no text."""
        ...


def _telemetry(run: Run, tokens: Sequence[ReplyToken], *, end: bool) -> ChoiceTelemetry | None:
    """Returns what a request asked for of some tokens' rows and, at the end, of the summary."""
    level = run.request.policy.telemetry
    rows = level in ("tokens", "full") and bool(tokens)
    if level == "none" or not (rows or end):
        return None
    telemetry = ChoiceTelemetry()
    if end:
        telemetry.summary = run.summary
    if rows:
        telemetry.tokens = [
            token_row(t.index, t.token, run.vocabulary, eos=t.eos, stop=t.ending and not t.eos)
            for t in tokens
        ]
    return telemetry


def _reason(run: Run) -> str:
    return run.finish_reason.value if run.finish_reason is not None else "stop"


class ChatFormat:
    """chat.completion and chat.completion.chunk."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, run: Run) -> ChatChoice:
        """See Format."""
        choice = ChatChoice(
            index=run.index,
            message=ChatMessage(role="assistant", content=run.text, refusal=None),
            logprobs=_chat_logprobs(run, run.tokens),
            finish_reason=_reason(run),
        )
        if (telemetry := _telemetry(run, run.tokens, end=True)) is not None:
            choice.entropick = telemetry
        return choice

    def opening(self, run: Run) -> ChatChunkChoice:
        """The role comes first."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=run.index, delta=delta, logprobs=None, finish_reason=None)

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken]) -> ChatChunkChoice:
        """See Format."""
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta(content=text),
            logprobs=_chat_logprobs(run, tokens),
            finish_reason=None,
        )
        if (telemetry := _telemetry(run, tokens, end=False)) is not None:
            chunk.entropick = telemetry
        return chunk

    def closing(self, run: Run, tokens: Sequence[ReplyToken]) -> ChatChunkChoice:
        """See Format."""
        left = _chat_logprobs(run, tokens)
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta(),
            logprobs=left if left is not None and left.content else None,
            finish_reason=_reason(run),
        )
        if (telemetry := _telemetry(run, tokens, end=True)) is not None:
            chunk.entropick = telemetry
        return chunk


class CompletionFormat:
    """text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, run: Run) -> CompletionChoice:
        """See Format."""
        return self._part(run, run.text, run.tokens, end=True)

    def opening(self, run: Run) -> None:
        """Nothing comes before the text."""

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken]) -> CompletionChoice:
        """See Format."""
        return self._part(run, text, tokens, end=False)

    def closing(self, run: Run, tokens: Sequence[ReplyToken]) -> CompletionChoice:
        """See Format."""
        return self._part(run, "", tokens, end=True)

    def _part(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> CompletionChoice:
        part = CompletionChoice(
            index=run.index,
            text=text,
            logprobs=_completion_logprobs(run, tokens),
            finish_reason=_reason(run) if end else None,
        )
        if (telemetry := _telemetry(run, tokens, end=end)) is not None:
            part.entropick = telemetry
        return part


def _chat_logprobs(run: Run, tokens: Sequence[ReplyToken]) -> ChatLogprobs | None:
    if run.request.sampling.logprobs is None:
        return None
    content = []
    for token in (reply.token for reply in tokens if not reply.ending):
        own = _top_logprob(run.vocabulary, token.token_id, token.logprob)
        tops = [_top_logprob(run.vocabulary, *pair) for pair in token.top_logprobs]
        content.append(TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=tops))
    return ChatLogprobs(content=content, refusal=None)


def _top_logprob(vocabulary: Vocabulary, token_id: int, logprob: float) -> TopLogprob:
    data = vocabulary.bytes[token_id]
    return TopLogprob(
        token=vocabulary.labels[token_id],
        logprob=max(logprob, _LEAST_LOGPROB),
        bytes=None if data is None else list(data),
    )


def _completion_logprobs(run: Run, tokens: Sequence[ReplyToken]) -> CompletionLogprobs | None:
    wanted = run.request.sampling.logprobs
    if wanted is None:
        return None
    labels = run.vocabulary.labels
    replies = [reply for reply in tokens if not reply.ending]
    tops = [{labels[i]: max(lp, _LEAST_LOGPROB) for i, lp in r.token.top_logprobs} for r in replies]
    return CompletionLogprobs(
        tokens=[labels[r.token.token_id] for r in replies],
        token_logprobs=[max(r.token.logprob, _LEAST_LOGPROB) for r in replies],
        top_logprobs=tops if wanted else None,
        text_offset=[r.offset for r in replies],
    )
