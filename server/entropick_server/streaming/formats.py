"""How a choice looks on the wire: a format for chat and a format for completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from ..protocol.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatMessage,
    ChoiceTelemetry,
    Completion,
    CompletionChoice,
)
from ..telemetry import token_row
from .logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from .run import ReplyToken, Run

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

    def opening(self, run: Run) -> ChatChunkChoice | CompletionChoice | None:
        """Returns the chunk that a choice's stream begins with; None where it begins with text."""
        ...

    def tell_prompt(self, envelope: Completion, run: Run) -> None:
        """Adds the fields of a prompt that an answer has beside its choices."""
        ...

    def told_ids(self, run: Run) -> Sequence[int] | None:
        """Returns the prompt's token ids where a stream's first chunk has them beside its choice."""
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
            logprobs=chat_logprobs(run, run.tokens),
            finish_reason=_reason(run),
        )
        _add_ids(choice, run, run.tokens)
        return _with_telemetry(choice, run, run.tokens, end=True)

    def tell_prompt(self, envelope: Completion, run: Run) -> None:
        """Adds the prompt's token ids and log probabilities, where the request asked for them."""
        if run.output.token_ids:
            envelope.prompt_token_ids = list(run.request.prompt_token_ids)
        if (told := prompt_logprobs(run)) is not None:
            envelope.prompt_logprobs = told

    def told_ids(self, run: Run) -> Sequence[int] | None:
        """Returns the prompt's token ids where the request asked for them."""
        return run.request.prompt_token_ids if run.output.token_ids else None

    def opening(self, run: Run) -> ChatChunkChoice:
        """Returns the role, which comes before all text."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=run.index, delta=delta, logprobs=None, finish_reason=None)

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> ChatChunkChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        logprobs = chat_logprobs(run, tokens)
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta() if end else ChatDelta(content=text),
            logprobs=None if end and logprobs is not None and not logprobs.content else logprobs,
            finish_reason=_reason(run) if end else None,
        )
        _add_ids(chunk, run, tokens)
        return _with_telemetry(chunk, run, tokens, end=end)


class CompletionFormat:
    """The format of text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, run: Run) -> CompletionChoice:
        """Returns a finished choice."""
        text = run.text if run.echo is None else run.echo.text + run.text
        choice = self._stretch(run, text, run.tokens, end=True, with_prompt=True)
        _add_prompt(choice, run)
        if (told := prompt_logprobs(run)) is not None:
            choice.prompt_logprobs = told
        return choice

    def tell_prompt(self, envelope: Completion, run: Run) -> None:
        """Adds nothing: each choice tells of its own prompt."""

    def told_ids(self, run: Run) -> None:
        """Returns None: a choice tells of its own prompt."""

    def opening(self, run: Run) -> CompletionChoice | None:
        """Returns the echoed prompt, or its token ids; None where neither is asked for."""
        if run.echo is None and not run.output.token_ids:
            return None
        text = "" if run.echo is None else run.echo.text
        choice = self._stretch(run, text, (), end=False, with_prompt=True)
        _add_prompt(choice, run)
        return choice

    def chunk(self, run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool) -> CompletionChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        return self._stretch(run, text, tokens, end=end, with_prompt=False)

    @staticmethod
    def _stretch(
        run: Run, text: str, tokens: Sequence[ReplyToken], *, end: bool, with_prompt: bool
    ) -> CompletionChoice:
        choice = CompletionChoice(
            index=run.index,
            text=text,
            logprobs=completion_logprobs(run, tokens, with_prompt=with_prompt),
            finish_reason=_reason(run) if end else None,
        )
        _add_ids(choice, run, tokens)
        return _with_telemetry(choice, run, tokens, end=end)


def _add_ids(
    choice: ChatChoice | ChatChunkChoice | CompletionChoice, run: Run, tokens: Sequence[ReplyToken]
) -> None:
    """Adds the ids of some tokens, the ending one among them, where the request asked for ids."""
    if run.output.token_ids:
        choice.token_ids = [reply.token.token_id for reply in tokens]


def _add_prompt(choice: CompletionChoice, run: Run) -> None:
    if run.output.token_ids:
        choice.prompt_token_ids = list(run.request.prompt_token_ids)


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
