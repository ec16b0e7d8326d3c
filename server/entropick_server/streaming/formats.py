"""How a choice looks on the wire: a format for chat and a format for completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from ..engine.reply_format.parts import Text
from ..engine.types import FinishReason
from ..protocol.message_object import (
    CalledFunction,
    CalledFunctionDelta,
    ChatDelta,
    ChatMessage,
    ToolCallDelta,
    ToolCallRow,
)
from ..protocol.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChoiceTelemetry,
    Completion,
    CompletionChoice,
    TokenRow,
)
from ..telemetry import token_row
from .logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from .message import CallBegin, Delta
from .pieces import NUMBERS, ROWS, JsonWriter, slices
from .run import ReplyToken, Run

Choice = TypeVar("Choice", ChatChoice, ChatChunkChoice, CompletionChoice)


class Format(Protocol):
    """The differences between the answers of the two generating routes."""

    prefix: str
    """of an answer's id"""
    whole_object: str
    chunk_object: str

    def whole(self, run: Run, writer: JsonWriter) -> ChatChoice | CompletionChoice:
        """Returns a finished choice, whose long lists are made while ``writer`` writes them."""
        ...

    def opening(self, run: Run) -> ChatChunkChoice | CompletionChoice | None:
        """Returns the chunk that a choice's stream begins with; None where it begins with text."""
        ...

    def tell_prompt(self, envelope: Completion, run: Run, writer: JsonWriter) -> None:
        """Adds the fields of a prompt that an answer has beside its choices."""
        ...

    def told_ids(self, run: Run) -> Sequence[int] | None:
        """Returns the prompt's token ids where a stream's first chunk has them beside its choice."""
        ...

    def chunk(
        self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken], writer: JsonWriter | None = None
    ) -> ChatChunkChoice | CompletionChoice:
        """Returns the growth of a choice with the tokens that it completes.

        ``delta`` None: its end, with the reason of it, the summary, and the tokens that are left. ``writer``:
        its long lists are made while it writes them.
        """
        ...


class ChatFormat:
    """The format of chat.completion and chat.completion.chunk."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, run: Run, writer: JsonWriter) -> ChatChoice:
        """Returns a finished choice (:meth:`Format.whole`)."""
        choice = ChatChoice(
            index=run.index,
            message=_message(run),
            logprobs=chat_logprobs(run, run.tokens, writer),
            finish_reason=_chat_reason(run),
        )
        _add_ids(choice, run, run.tokens, writer)
        return _with_telemetry(choice, run, run.tokens, end=True, writer=writer)

    def tell_prompt(self, envelope: Completion, run: Run, writer: JsonWriter) -> None:
        """Adds the prompt's token ids and log probabilities, where the request asked for them."""
        if run.output.token_ids:
            envelope.prompt_token_ids = writer.later(slices(run.request.prompt_token_ids, NUMBERS))
        if (told := prompt_logprobs(run, writer)) is not None:
            envelope.prompt_logprobs = told

    def told_ids(self, run: Run) -> Sequence[int] | None:
        """Returns the prompt's token ids where the request asked for them."""
        return run.request.prompt_token_ids if run.output.token_ids else None

    def opening(self, run: Run) -> ChatChunkChoice:
        """Returns the role, which comes before all text."""
        delta = ChatDelta(role="assistant", content="")
        return ChatChunkChoice(index=run.index, delta=delta, logprobs=None, finish_reason=None)

    def chunk(
        self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken], writer: JsonWriter | None = None
    ) -> ChatChunkChoice:
        """Returns a delta of the message, or the end (:meth:`Format.chunk`)."""
        logprobs, end = chat_logprobs(run, tokens), delta is None
        chunk = ChatChunkChoice(
            index=run.index,
            delta=ChatDelta() if delta is None else _delta(delta),
            logprobs=None if end and logprobs is not None and not logprobs.content else logprobs,
            finish_reason=_chat_reason(run) if end else None,
        )
        _add_ids(chunk, run, tokens)
        return _with_telemetry(chunk, run, tokens, end=end, writer=writer)


class CompletionFormat:
    """The format of text_completion, in a stream as in a whole."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, run: Run, writer: JsonWriter) -> CompletionChoice:
        """Returns a finished choice (:meth:`Format.whole`)."""
        text = run.text if run.echo is None else run.echo.text + run.text
        choice = self._stretch(run, text, run.tokens, end=True, with_prompt=True, writer=writer)
        _add_prompt(choice, run, writer)
        if (told := prompt_logprobs(run, writer)) is not None:
            choice.prompt_logprobs = told
        return choice

    def tell_prompt(self, envelope: Completion, run: Run, writer: JsonWriter) -> None:
        """Leaves the answer as it is: each choice tells of its own prompt."""

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

    def chunk(
        self, run: Run, delta: Delta | None, tokens: Sequence[ReplyToken], writer: JsonWriter | None = None
    ) -> CompletionChoice:
        """Returns a stretch of text, or the end (:meth:`Format.chunk`)."""
        text = delta.text if isinstance(delta, Text) else ""
        return self._stretch(run, text, tokens, end=delta is None, with_prompt=False, writer=writer)

    @staticmethod
    def _stretch(
        run: Run,
        text: str,
        tokens: Sequence[ReplyToken],
        *,
        end: bool,
        with_prompt: bool,
        writer: JsonWriter | None = None,
    ) -> CompletionChoice:
        choice = CompletionChoice(
            index=run.index,
            text=text,
            logprobs=completion_logprobs(run, tokens, with_prompt=with_prompt, writer=writer),
            finish_reason=_reason(run) if end else None,
        )
        _add_ids(choice, run, tokens, writer)
        return _with_telemetry(choice, run, tokens, end=end, writer=writer)


def _add_ids(
    choice: ChatChoice | ChatChunkChoice | CompletionChoice,
    run: Run,
    tokens: Sequence[ReplyToken],
    writer: JsonWriter | None = None,
) -> None:
    """Adds the ids of some tokens, the ending one among them, where the request asked for ids."""
    if run.output.token_ids:
        ids = [reply.token.token_id for reply in tokens]
        choice.token_ids = ids if writer is None else writer.later(slices(ids, NUMBERS))


def _add_prompt(choice: CompletionChoice, run: Run, writer: JsonWriter | None = None) -> None:
    if run.output.token_ids:
        ids = run.request.prompt_token_ids
        choice.prompt_token_ids = list(ids) if writer is None else writer.later(slices(ids, NUMBERS))


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
        row = ToolCallDelta(index=delta.number, id=delta.id, type="function", function=function)
    else:
        row = ToolCallDelta(index=delta.number, function=CalledFunctionDelta(arguments=delta.arguments))
    return ChatDelta(tool_calls=[row])


def _with_telemetry(
    choice: Choice, run: Run, tokens: Sequence[ReplyToken], *, end: bool, writer: JsonWriter | None = None
) -> Choice:
    """Adds the tokens' rows and, at the end, the summary, as far as the request asked for them."""
    if end and run.request.policy.at_end:
        tokens = run.tokens
    if (telemetry := telemetry_of(run, tokens, end=end, writer=writer)) is not None:
        choice.entropick = telemetry
    return choice


def telemetry_of(
    run: Run, tokens: Sequence[ReplyToken], *, end: bool, writer: JsonWriter | None = None
) -> ChoiceTelemetry | None:
    """Returns tokens' rows and, at the end, the summary; None where the request asked for nothing of it.

    ``writer``: the rows are made while it writes them.
    """
    level = run.request.policy.telemetry
    rows = level in ("tokens", "full") and bool(tokens)
    if level == "none" or not (rows or end):
        return None
    telemetry: ChoiceTelemetry = {}
    if end:
        telemetry["summary"] = run.summary
        if (voted := run.consensus) is not None:
            told: dict[str, Any] = {"consensus": voted.summary}
            if voted.error_probability is not None:
                told["error_probability"] = voted.error_probability
            telemetry["summary"] = run.summary.model_copy(update=told)
            if voted.replies is not None:
                telemetry["replies"] = voted.replies
    if rows:
        full = level == "full"
        if writer is None:
            telemetry["tokens"] = _rows(run, tokens, full)
        else:
            telemetry["tokens"] = writer.later(
                _rows(run, some, full) for some in slices(tokens, 1 if full else ROWS)
            )
    return telemetry


def _rows(run: Run, tokens: Sequence[ReplyToken], full: bool) -> list[TokenRow]:
    return [
        token_row(t.index, t.token, run.vocabulary, eos=t.eos, stop=t.ending and not t.eos, full=full)
        for t in tokens
    ]
