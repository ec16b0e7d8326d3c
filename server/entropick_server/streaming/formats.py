"""How a choice looks on the wire: a format for chat and a format for completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

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
Choice = TypeVar("Choice", ChatChoice, ChatChunkChoice, CompletionChoice)


class Format(Protocol):
    """The differences between the answers of the two generating routes."""

    prefix: str
    """of an answer's id"""
    whole_object: str
    chunk_object: str

    def whole(self, run: Run) -> ChatChoice | CompletionChoice:
        """Returns a finished choice."""
        ...

    def opening(self, run: Run) -> ChatChunkChoice | None:
        """Returns the chunk that a choice's stream begins with; None where it begins with text."""
        ...

    def chunk(
        self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool
    ) -> ChatChunkChoice | CompletionChoice:
        """Returns a stretch of a choice's text with the tokens that it completes.

        ``end``: there is no text, but the reason of the end, the summary, and the tokens that are left.
        """
        ...


class ChatFormat:
    """The format of chat.completion and chat.completion.chunk."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, run: Run) -> ChatChoice:
        """Returns a finished choice."""
        choice = ChatChoice(
            index=run.index,
            message=ChatMessage(role="assistant", content=run.text, refusal=None),
            logprobs=_chat_logprobs(run, run.tokens),
            finish_reason=_reason(run),
        )
        return _with_telemetry(choice, run, run.tokens, end=True)

    def opening(self, run: Run) -> ChatChunkChoice:
        """Returns the role, which comes before all text."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=run.index, delta=delta, logprobs=None, finish_reason=None)

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> ChatChunkChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        logprobs = _chat_logprobs(run, tokens)
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta() if end else ChatDelta(content=text),
            logprobs=None if end and logprobs is not None and not logprobs.content else logprobs,
            finish_reason=_reason(run) if end else None,
        )
        return _with_telemetry(chunk, run, tokens, end=end)


class CompletionFormat:
    """The format of text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, run: Run) -> CompletionChoice:
        """Returns a finished choice."""
        return self.chunk(run, run.text, run.tokens, end=True)

    def opening(self, run: Run) -> None:
        """Returns None: nothing comes before the text."""

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> CompletionChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        choice = CompletionChoice(
            index=run.index,
            text=text,
            logprobs=_completion_logprobs(run, tokens),
            finish_reason=_reason(run) if end else None,
        )
        return _with_telemetry(choice, run, tokens, end=end)


def _reason(run: Run) -> str:
    return run.finish_reason.value if run.finish_reason is not None else "stop"


def _with_telemetry(choice: Choice, run: Run, tokens: Sequence[ReplyToken], *, end: bool) -> Choice:
    """Adds the tokens' rows and, at the end, the summary, as far as the request asked for them."""
    level = run.request.policy.telemetry
    if end and run.request.policy.at_end:
        tokens = run.tokens
    rows = level in ("tokens", "full") and bool(tokens)
    if level == "none" or not (rows or end):
        return choice
    choice.entropick = telemetry = ChoiceTelemetry()
    if end:
        telemetry.summary = run.summary
        if (voted := run.consensus) is not None:
            told: dict[str, Any] = {"consensus": voted.summary}
            if voted.error_probability is not None:
                told["error_probability"] = voted.error_probability
            telemetry.summary = run.summary.model_copy(update=told)
            if voted.replies is not None:
                telemetry.replies = voted.replies
    if rows:
        telemetry.tokens = [
            token_row(
                t.index, t.token, run.vocabulary, eos=t.eos, stop=t.ending and not t.eos, full=level == "full"
            )
            for t in tokens
        ]
    return choice


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
