"""How a choice looks on the wire: one format for chat, one for completions, each whole and in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..engine.base import Tokenizer
from ..engine.types import Token
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
from ..telemetry import summarize, token_label, token_row
from .choice import Choice, Seen

_LEAST_LOGPROB = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say"""


@dataclass(frozen=True, slots=True)
class Report:
    """What of the telemetry a request asked for, and what it takes to tell it."""

    tokenizer: Tokenizer
    profile: str | None

    def rows(self, choice: Choice, seen: Sequence[Seen]) -> ChoiceTelemetry | None:
        """The rows that ride on a piece."""
        if choice.request.policy.telemetry not in ("tokens", "full") or not seen:
            return None
        rows = [
            token_row(s.index, s.token, self.tokenizer, eos=s.eos, stop=s.ending and not s.eos) for s in seen
        ]
        return ChoiceTelemetry(tokens=rows)

    def closing(self, choice: Choice, seen: Sequence[Seen]) -> ChoiceTelemetry | None:
        """The summary, with the rows that are left."""
        if choice.request.policy.telemetry == "none":
            return None
        request = choice.request
        summary = summarize(
            choice.tokens,
            request.sampling.seed,
            request.policy,
            self.profile,
            choice.branch_tokens,
            request.choice,
        )
        rows = self.rows(choice, seen)
        if rows is None:
            return ChoiceTelemetry(summary=summary)
        return ChoiceTelemetry(summary=summary, tokens=rows.tokens)


class Format(Protocol):
    """What the two routes differ in."""

    prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, choice: Choice, report: Report) -> ChatChoice | CompletionChoice:
        """A finished choice."""
        ...

    def opening(self, choice: Choice) -> ChatChunkChoice | None:
        """What a stream begins with."""
        ...

    def piece(
        self, choice: Choice, text: str, seen: Sequence[Seen], report: Report
    ) -> ChatChunkChoice | CompletionChoice:
        """A piece of text with the tokens it completes."""
        ...

    def closing(
        self, choice: Choice, seen: Sequence[Seen], report: Report
    ) -> ChatChunkChoice | CompletionChoice:
        """The end: reason, summary, and the tokens that had no text."""
        ...


def _finish(choice: Choice) -> str:
    return choice.finish_reason.value if choice.finish_reason is not None else "stop"


class ChatFormat:
    """chat.completion and chat.completion.chunk."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def whole(self, choice: Choice, report: Report) -> ChatChoice:
        """See Format."""
        answer = ChatChoice(
            index=choice.index,
            message=ChatMessage(role="assistant", content=choice.text, refusal=None),
            logprobs=self._logprobs(choice, choice.seen),
            finish_reason=_finish(choice),
        )
        if (telemetry := report.closing(choice, choice.seen)) is not None:
            answer.entropick = telemetry
        return answer

    def opening(self, choice: Choice) -> ChatChunkChoice:
        """The role comes first."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=choice.index, delta=delta, logprobs=None, finish_reason=None)

    def piece(self, choice: Choice, text: str, seen: Sequence[Seen], report: Report) -> ChatChunkChoice:
        """See Format."""
        chunk = ChatChunkChoice(
            index=choice.index,
            delta=ChatDelta(content=text),
            logprobs=self._logprobs(choice, seen),
            finish_reason=None,
        )
        if (telemetry := report.rows(choice, seen)) is not None:
            chunk.entropick = telemetry
        return chunk

    def closing(self, choice: Choice, seen: Sequence[Seen], report: Report) -> ChatChunkChoice:
        """See Format."""
        left = self._logprobs(choice, seen)
        chunk = ChatChunkChoice(
            index=choice.index,
            delta=ChatDelta(),
            logprobs=left if left is not None and left.content else None,
            finish_reason=_finish(choice),
        )
        if (telemetry := report.closing(choice, seen)) is not None:
            chunk.entropick = telemetry
        return chunk

    def _logprobs(self, choice: Choice, seen: Sequence[Seen]) -> ChatLogprobs | None:
        if choice.request.sampling.logprobs is None:
            return None
        content = [self._entry(s.token) for s in seen if not s.ending]
        return ChatLogprobs(content=content, refusal=None)

    def _entry(self, token: Token) -> TokenLogprob:
        own = self._alternative(token.token_id, token.logprob)
        return TokenLogprob(
            token=own.token,
            logprob=own.logprob,
            bytes=own.bytes,
            top_logprobs=[self._alternative(*pair) for pair in token.top_logprobs],
        )

    def _alternative(self, token_id: int, logprob: float) -> TopLogprob:
        data = self._tokenizer.token_bytes(token_id)
        return TopLogprob(
            token=token_label(self._tokenizer, token_id),
            logprob=max(logprob, _LEAST_LOGPROB),
            bytes=None if data is None else list(data),
        )


class CompletionFormat:
    """text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def whole(self, choice: Choice, report: Report) -> CompletionChoice:
        """See Format."""
        return self._part(choice, choice.text, choice.seen, report.closing(choice, choice.seen), end=True)

    def opening(self, choice: Choice) -> None:
        """Nothing comes before the text."""

    def piece(self, choice: Choice, text: str, seen: Sequence[Seen], report: Report) -> CompletionChoice:
        """See Format."""
        return self._part(choice, text, seen, report.rows(choice, seen), end=False)

    def closing(self, choice: Choice, seen: Sequence[Seen], report: Report) -> CompletionChoice:
        """See Format."""
        return self._part(choice, "", seen, report.closing(choice, seen), end=True)

    def _part(
        self,
        choice: Choice,
        text: str,
        seen: Sequence[Seen],
        telemetry: ChoiceTelemetry | None,
        *,
        end: bool,
    ) -> CompletionChoice:
        part = CompletionChoice(
            index=choice.index,
            text=text,
            logprobs=self._logprobs(choice, [s for s in seen if not s.ending]),
            finish_reason=_finish(choice) if end else None,
        )
        if telemetry is not None:
            part.entropick = telemetry
        return part

    def _logprobs(self, choice: Choice, seen: Sequence[Seen]) -> CompletionLogprobs | None:
        wanted = choice.request.sampling.logprobs
        if wanted is None:
            return None

        def label(token_id: int) -> str:
            return token_label(self._tokenizer, token_id)

        tops = [{label(i): max(lp, _LEAST_LOGPROB) for i, lp in s.token.top_logprobs} for s in seen]
        return CompletionLogprobs(
            tokens=[label(s.token.token_id) for s in seen],
            token_logprobs=[max(s.token.logprob, _LEAST_LOGPROB) for s in seen],
            top_logprobs=tops if wanted else None,
            text_offset=[s.offset for s in seen],
        )
