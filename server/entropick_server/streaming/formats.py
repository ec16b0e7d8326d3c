"""How a choice looks on the wire: a format for chat and a format for completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

from ..engine.reply_format.parts import Text
from ..engine.types import FinishReason
from ..protocol.responses import (
    CalledFunction,
    CalledFunctionDelta,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChoiceTelemetry,
    CompletionChoice,
    CompletionLogprobs,
    TokenLogprob,
    ToolCallDelta,
    ToolCallRow,
    TopLogprob,
)
from ..telemetry import token_row
from ..vocabulary import Vocabulary
from .message import CallBegin, Delta
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
        self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken]
    ) -> ChatChunkChoice | CompletionChoice:
        """Returns what a choice grows by with the tokens that it completes.

        ``delta`` None: its end, with the reason of it, the summary, and the tokens that are left.
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
            message=_message(run),
            logprobs=chat_logprobs(run, run.tokens),
            finish_reason=_chat_reason(run),
        )
        return _with_telemetry(choice, run, run.tokens, end=True)

    def opening(self, run: Run) -> ChatChunkChoice:
        """Returns the role, which comes before all text."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=run.index, delta=delta, logprobs=None, finish_reason=None)

    def chunk(self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken]) -> ChatChunkChoice:
        """Returns a delta of the message, or the end (:meth:`Format.chunk`)."""
        logprobs, end = chat_logprobs(run, tokens), delta is None
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta() if delta is None else _delta(delta),
            logprobs=None if end and logprobs is not None and not logprobs.content else logprobs,
            finish_reason=_chat_reason(run) if end else None,
        )
        return _with_telemetry(chunk, run, tokens, end=end)


class CompletionFormat:
    """The format of text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, run: Run) -> CompletionChoice:
        """Returns a finished choice."""
        return self._choice(run, run.text, run.tokens, end=True)

    def opening(self, run: Run) -> None:
        """Returns None: nothing comes before the text."""

    def chunk(self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken]) -> CompletionChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        text = delta.text if isinstance(delta, Text) else ""
        return self._choice(run, text, tokens, end=delta is None)

    def _choice(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> CompletionChoice:
        choice = CompletionChoice(
            index=run.index,
            text=text,
            logprobs=_completion_logprobs(run, tokens),
            finish_reason=_reason(run) if end else None,
        )
        return _with_telemetry(choice, run, tokens, end=end)


def _reason(run: Run) -> str:
    return run.finish_reason.value if run.finish_reason is not None else "stop"


def _chat_reason(run: Run) -> str:
    """Returns the reason of a chat choice's end; a reply that ended by itself ends with its calls."""
    called = run.message is not None and bool(run.message.calls)
    return "tool_calls" if called and run.finish_reason is FinishReason.STOP else _reason(run)


def _message(run: Run) -> ChatMessage:
    message = run.message
    if message is None:
        return ChatMessage(role="assistant", content=run.text, refusal=None)
    told: dict[str, Any] = {}
    if (reasoning := message.reasoning) is not None:
        told["reasoning_content"] = reasoning
    if message.calls:
        told["tool_calls"] = [
            ToolCallRow(id=c.id, type="function", function=CalledFunction(name=c.name, arguments=c.arguments))
            for c in message.calls
        ]
    content = message.text
    return ChatMessage(
        role="assistant", content=None if message.calls and not content else content, refusal=None, **told
    )


def _delta(delta: Delta) -> ChatDelta:
    if isinstance(delta, Text):
        return ChatDelta(reasoning_content=delta.text) if delta.reasoning else ChatDelta(content=delta.text)
    if isinstance(delta, CallBegin):
        function = CalledFunctionDelta(name=delta.name, arguments="")
        row = ToolCallDelta(index=delta.index, id=delta.id, type="function", function=function)
    else:
        row = ToolCallDelta(index=delta.index, function=CalledFunctionDelta(arguments=delta.arguments))
    return ChatDelta(tool_calls=[row])


def _with_telemetry(choice: Choice, run: Run, tokens: Sequence[ReplyToken], *, end: bool) -> Choice:
    """Adds the tokens' rows and, at the end, the summary, as far as the request asked for them."""
    if end and run.request.policy.at_end:
        tokens = run.tokens
    if (telemetry := telemetry_of(run, tokens, end=end)) is not None:
        choice.entropick = telemetry
    return choice


def telemetry_of(run: Run, tokens: Sequence[ReplyToken], *, end: bool) -> ChoiceTelemetry | None:
    """Returns tokens' rows and, at the end, the summary; None where the request asked for nothing of it."""
    level = run.request.policy.telemetry
    rows = level in ("tokens", "full") and bool(tokens)
    if level == "none" or not (rows or end):
        return None
    telemetry = ChoiceTelemetry()
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
    return telemetry


def chat_logprobs(run: Run, tokens: Sequence[ReplyToken]) -> ChatLogprobs | None:
    """Returns the log probabilities of tokens that have text; None where the request asked for none."""
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
