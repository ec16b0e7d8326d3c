"""A choice on its way, from its request to its end: its tokens, its text, its times and its summary."""

from __future__ import annotations

import asyncio
import time
from array import array
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Literal, Self

from entropick_sampler.error_probability import RunningFigures
from entropick_sampler.signals import SIGNAL_NAMES

from ..admission import AdmittedPrompt
from ..answers import Extractor
from ..consensus.weights import Figures
from ..detokenizer import Detokenizer
from ..engine.base import EngineError, Tokenizer
from ..engine.reply_format.parts import Text
from ..engine.types import FinishReason, PromptToken, Request, RequestOutput, Token
from ..error_estimate import Agreement, estimate
from ..logs.record import RequestRecord
from ..metrics import ChoiceFigures, GenuinenessFigures
from ..protocol.output_options import OutputOptions
from ..protocol.responses import ConsensusTelemetry, PhaseSummary, Summary
from ..recent import Finished
from ..series import Series
from ..state import ServedModel, ServerState
from ..telemetry import phase_summary, summarize
from .echo import Echo
from .message import Delta, Message, MessageForm
from .watched import genuineness_at_end

_ENTROPY: Final = SIGNAL_NAMES.index("logits_entropy")


class GenerationError(EngineError):
    """The model failed on this request; others go on."""


class ClientGoneError(Exception):
    """The client reads no more."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of an answer: its HTTP request and its model."""

    answer_id: str
    request_id: str
    route: str
    created: int
    """Unix seconds"""
    model: ServedModel
    output: OutputOptions = field(default_factory=OutputOptions)
    """the form of the answer"""
    form: MessageForm | None = None
    """how the replies are read; None: as text"""
    owner: str | None = None
    """the name of the key that opened the request; None where no keys are set"""
    record: RequestRecord = field(default_factory=RequestRecord)
    """what the log tells of the request"""
    deadline: float | None = None
    """time.monotonic() at which its replies end with an error; None: there is no such time"""


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """A token of a reply, at its place in the text."""

    index: int
    token: Token
    offset: int
    """characters of text before it"""
    ending: bool
    """it ended the reply (end of sequence, a stop token id) and has no text of its own"""
    eos: bool
    beyond: bool = False
    """it reaches beyond the end of the text, which a stop string cut"""


def figures_of(reply: ReplyToken) -> Figures:
    """Returns the figures of a token as votes and estimates of errors read them."""
    token = reply.token
    return Figures(token.logprob, token.signals[_ENTROPY], reply.offset, not token.chosen)


class Run:
    """A choice while it is generated and after. Use it as a context around the engine's outputs.

    The context counts the choice in metrics, admission and recent requests, however it ends.
    """

    def __init__(
        self,
        index: int,
        request: Request,
        origin: Origin,
        server: ServerState,
        prompt: AdmittedPrompt,
        extract: Extractor | None = None,
        echo: Echo | None = None,
    ) -> None:
        """Prepares a choice: number ``index`` of the HTTP answer, of an admitted prompt.

        Raises ValueError for a request that goes on behind tokens in which a stop string is complete.
        ``extract``: takes the answer of its reply, None where nobody said what an answer is. ``echo``: the
        prompt with which the text begins, None where it does not.
        """
        self.index = index
        self.output = origin.output
        self.echo = echo
        self.prompt: tuple[PromptToken, ...] = ()
        """log probabilities of its prompt's tokens but the first, where they are wanted"""
        self.request = request
        self.vocabulary = origin.model.vocabulary
        self.tokens: list[ReplyToken] = []
        self.finish_reason: FinishReason | None = None
        self.cached_tokens = 0
        """tokens of its prompt that were in the KV cache"""
        self.branch_tokens = 0
        """tokens of branches that lost"""
        self.first_token_seconds: float | None = None
        """from the arrival to the first token"""
        self.consensus: ConsensusTelemetry | None = None
        """of the reply that won a vote"""
        self.message: Message | None = None if origin.form is None else origin.form.message(request)
        """the parts of the reply; None where it is all text"""
        self._figures = RunningFigures()
        self._error_model = origin.model.error_model
        self._extract = None if extract is None else self.extractor(extract)
        self._origin = origin
        self._server = server
        self._prompt = prompt
        self._begun = False
        self._last = request.arrival
        self._texts: list[str] = []
        self._released = self._handed_out = self._light = 0
        self._eos = frozenset(origin.model.info.eos_token_ids)
        self._stop_ids = frozenset(request.sampling.stop_token_ids)
        self._marks = {} if origin.form is None else origin.form.reading.marks
        self._texts_of = self.vocabulary.bytes if self.output.skip_special else self.vocabulary.visible
        self._detokenizer = self._detokenize(server.engine.tokenizer)
        resumed = request.resumed
        if resumed is not None:
            self._detokenizer.begin_behind([token.token_id for token in resumed.tokens])
        self._offset = self._detokenizer.offset
        """characters of the tokens that are there already"""
        self._spent = 0 if resumed is None else resumed.spent
        if resumed is not None and resumed.tokens:
            # the figures of the whole reply would be needed
            self._error_model = None
        self._summary: Summary | None = None
        self._settled: tuple[Series, GenuinenessFigures | None] | None = None

    def _detokenize(self, tokenizer: Tokenizer) -> Detokenizer:
        """Returns the detokenizer of the reply."""
        request, grown = self.request, None
        if not self._marks:  # which are tokens of one text everywhere
            prompt = request.prompt_token_ids[: len(request.prompt_token_ids) - request.kept]
            grown = tokenizer.reply_text(prompt, skip_special_tokens=self.output.skip_special)
        return Detokenizer(
            self._token_bytes if grown is None else grown.push,
            request.sampling.stop,
            include_stop=self.output.include_stop,
            rest=bytes if grown is None else grown.finish,
            min_tokens=request.sampling.min_tokens,
        )

    @property
    def seconds_left(self) -> float | None:
        """Returns the seconds that the reply may still take, below 0 where it is late; None: any time."""
        deadline = self._origin.deadline
        return None if deadline is None else deadline - time.monotonic()

    @property
    def text(self) -> str:
        """Returns the text of the reply so far."""
        return "".join(self._texts)

    @property
    def summary(self) -> Summary:
        """Returns the reply at a glance; of a reply that has ended it is made once."""
        if self._summary is not None:
            return self._summary
        tokens = [reply.token for reply in self.tokens]
        model = self._origin.model
        summary = summarize(self.request, tokens, model.profile_id, self.branch_tokens, model.cuts)
        if (phases := self._phases()) is not None:
            summary.phases = phases
        if self.finish_reason is not None:
            if (probability := self.error_probability()) is not None:
                summary.error_probability = probability
            self._summary = summary
        return summary

    def settle(self) -> None:
        """Computes the summary and the record of the reply, which has ended, in any thread.

        Left to the end of the context, that would hold up the event loop: about 10 us a token.
        """
        self._settled = self._figures_at_end()
        _ = self.summary

    def _figures_at_end(self) -> tuple[Series, GenuinenessFigures | None]:
        tokens = [reply.token for reply in self.tokens]
        watched = genuineness_at_end(self.request, tokens, self._origin.model.cuts)
        return Series.of(tokens, self.request.kept), watched

    def error_probability(self, agreement: Agreement | None = None) -> float | None:
        """Returns the probability that the reply, which has ended, is wrong; None where nothing tells.

        ``agreement``: of the other replies, where it won a vote.
        """
        model = self._error_model
        if model is None or not self.tokens:
            return None
        figures = [figures_of(reply) for reply in self.tokens[: model.longest + 1]]
        cut = self.finish_reason is FinishReason.LENGTH
        return estimate(model, self._figures, cut, self.text, figures, self._extract, agreement)

    def extractor(self, extract: Extractor) -> Extractor:
        """Returns an extractor that leaves the reply's reasoning out."""
        return extract if self.message is None else self.message.behind_reasoning(extract)

    def _phases(self) -> dict[Literal["reasoning", "content"], PhaseSummary] | None:
        """Returns the reasoning and the rest at a glance; None of a reply without reasoning."""
        message = self.message
        if message is None or not message.has_reasoned:
            return None
        reasons = [message.reasons_at(reply.offset) for reply in self.tokens]
        return {
            "reasoning": phase_summary([t.token for t, r in zip(self.tokens, reasons, strict=True) if r]),
            "content": phase_summary([t.token for t, r in zip(self.tokens, reasons, strict=True) if not r]),
        }

    def take(self, output: RequestOutput) -> str:
        """Takes the output of an engine step. Returns the text that it lets out.

        Raises GenerationError where the engine gave the request up.
        """
        reason = output.finish_reason
        if reason in (FinishReason.ERROR, FinishReason.CANCELLED):
            raise GenerationError(output.error or "The engine gave this request up.")
        self.cached_tokens = output.cached_tokens
        self.branch_tokens = output.branch_tokens - self._spent
        self.prompt = self.prompt or output.prompt
        text, before = "", len(self.tokens)
        for position, token in enumerate(output.tokens, start=1):
            last = reason is FinishReason.STOP and position == len(output.tokens)
            ending = last and token.token_id in self._stop_ids
            eos = ending and token.token_id in self._eos
            index, offset = self.request.kept + len(self.tokens), self._detokenizer.offset - self._offset
            self.tokens.append(ReplyToken(index, token, offset, ending, eos))
            if self._error_model is not None and token.chosen:
                self._figures.add(token.surprisal, token.signals[_ENTROPY])
            silent = ending and not self.output.include_stop
            released = self._detokenizer.push(token.token_id, silent=silent)
            text += released.text
            self._released += released.tokens
            if released.stopped:
                # tokens behind the stop string are no part of the reply
                reason = FinishReason.STOP
                self._cut(released.beyond)
                break
        else:
            if reason is not None:
                rest = self._detokenizer.finish()
                text += rest.text
                self._released += rest.tokens
                reason = FinishReason.STOP if rest.stopped else reason
                self._cut(rest.beyond)
        if self.message is not None:
            self.message.feed(text, end=reason is not None)
            if reason is None and self.message.ended:
                reason = FinishReason.STOP
                self._released += self._detokenizer.finish().tokens
        self.finish_reason = reason
        self._texts.append(text)
        self._count(len(self.tokens) - before)
        return text

    def _cut(self, beyond: int) -> None:
        """Marks the newest tokens, which reach beyond the end of the text."""
        for at in range(len(self.tokens) - beyond, len(self.tokens)):
            self.tokens[at] = replace(self.tokens[at], beyond=True)

    def pieces(self, text: str) -> list[tuple[Delta, list[ReplyToken]]]:
        """Returns the growth of the message by a text that :meth:`take` let out, each with its tokens.

        Tokens wait for a piece that comes after them.
        """
        if self.message is None:
            return [(Text(text), self.hand_out())] if text else []
        deltas = self.message.deltas()
        return [(d, self.hand_out() if n == len(deltas) else []) for n, d in enumerate(deltas, start=1)]

    def hand_out(self) -> list[ReplyToken]:
        """Returns the tokens whose last byte is out and that no earlier call returned."""
        begin, self._handed_out = self._handed_out, self._released
        return self.tokens[begin : self._released]

    def lighten(self, *, whole: bool = False) -> None:
        """Drops the figures of heads, layers and candidates of tokens that were handed out, in any thread.

        ``whole``: of all tokens, whose answer is written. One token after another: at the end of an answer
        with megabytes of such figures all of them would be freed at once, and nothing else run meanwhile.
        """
        end = len(self.tokens) if whole else self._handed_out
        for at in range(self._light, end):
            reply = self.tokens[at]
            token = reply.token
            if token.detail is not None or token.top_logprobs or token.most_probable:
                light = replace(token, detail=None, top_logprobs=(), most_probable=())
                self.tokens[at] = replace(reply, token=light)
        self._light = max(self._light, end)

    def __enter__(self) -> Self:
        """Notes that the request is handed to the engine, which may refuse it."""
        self._server.metrics.choices.on_begin(self.request.request_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Counts the end of the choice, well or not."""
        if isinstance(error, GenerationError):
            # a step that fails may be a request's first, and its output tells nothing else of it
            self._server.metrics.choices.on_ran(self.request.request_id)
        if self._begun:
            self._prompt.end()
        if self.finish_reason is not None:
            reason = self.finish_reason.value
        else:
            gone = isinstance(error, asyncio.CancelledError | GeneratorExit | ClientGoneError)
            reason = "cancelled" if gone else "error"
        counted = len(self.request.prompt_token_ids) if self.request.counts_prompt else 0
        self._origin.record.add_choice(counted, len(self.tokens), reason)
        duration = time.monotonic() - self.request.arrival
        # a choice that the engine refused, or that was given up while it waited, does not count
        request = self.request
        series, watched = self._settled or self._figures_at_end()
        figures = ChoiceFigures(
            len(request.prompt_token_ids),
            self.cached_tokens,
            len(self.tokens),
            request.sampling.max_tokens,
            watched,
        )
        if self._server.metrics.on_end(request.request_id, reason, duration, figures):
            self._server.recent.add(self._finished(reason, duration, series))

    def _token_bytes(self, token_id: int) -> bytes | None:
        """Returns the text of a token, also of a special one that is a mark of the reply's form."""
        data = self._texts_of[token_id]
        return self._marks.get(token_id) if data is None else data

    def _count(self, tokens: int) -> None:
        """Counts the tokens that a step brought, and when."""
        now, choices = time.monotonic(), self._server.metrics.choices
        # a prompt counts once, with its first choice
        prompt_tokens = len(self.request.prompt_token_ids) if self.request.counts_prompt else 0
        if self.finish_reason is not None and not self.tokens:
            choices.on_prompt_alone(prompt_tokens)
        if tokens and self.first_token_seconds is None:
            self._begun = True
            self._prompt.begin()
            self.first_token_seconds = now - self.request.arrival
            # the choices of one prompt have it together
            choices.on_first_token(self.request.request_id, self.first_token_seconds, prompt_tokens)
        elif tokens:
            choices.on_tokens(now - self._last, tokens)
        self._last = now

    def _finished(self, reason: str, duration: float, series: Series) -> Finished:
        origin, request = self._origin, self.request
        figures = {
            "route": origin.route,
            "model": origin.model.info.name,
            "model_hash": origin.model.model_hash,
            "system_fingerprint": origin.model.fingerprint,
            "created": origin.created,
            "finish_reason": reason,
            "prompt_tokens": len(request.prompt_token_ids),
            "completion_tokens": len(self.tokens),
            "time_to_first_token": self.first_token_seconds,
            "duration": duration,
        }
        prompts = self._server.settings.recent_prompts
        ends = frozenset() if request.sampling.ignore_eos else self._eos
        return Finished(
            origin.answer_id,
            self.index,
            origin.request_id,
            self.summary,
            series,
            figures,
            self.text,
            replace(
                request.sampling,
                stop=request.sampling.stop if prompts else (),
                bad_words=request.sampling.bad_words if prompts else (),
                stop_token_ids=tuple(i for i in request.sampling.stop_token_ids if i not in ends),
            ),
            request.policy,
            tuple((reply.index, reply.token.branches) for reply in self.tokens if reply.token.branches),
            () if request.resumed is None else request.resumed.tokens,
            array("i", request.prompt_token_ids[: len(request.prompt_token_ids) - request.kept])
            if prompts
            else None,
            request.grammar.source if prompts and request.grammar is not None else None,
            origin.owner,
        )
