"""The metrics of a choice's life: when it came, ran, got its first token and ended, and how long it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from ..engine.types import FinishReason, RequestOutput, StepReport
from .exemplars import exemplar
from .families import CHOICES, LONG, SHORT, TOKENS, WAIT, Families
from .genuineness import GenuinenessFigures

_MOST_LEFT: Final = 1024
"""choices to remember whose first step may still be told"""


@dataclass(frozen=True, slots=True)
class ChoiceFigures:
    """The sizes of a choice that ended, in tokens. Filled by its run, read by the metrics."""

    prompt: int
    cached: int
    """of the prompt, found in the KV cache"""
    generated: int
    max_tokens: int
    genuineness: GenuinenessFigures | None = None
    """None where the engine measured none, or the choice wanted none"""


@dataclass(slots=True)
class _Life:
    """What is known of a choice that has not ended; seconds since its request's arrival."""

    ran: bool = False
    queued: float | None = None
    first: float | None = None
    preemptions: int = 0


class _End(NamedTuple):
    """The end of a choice: its reason, the seconds since its request's arrival, its sizes."""

    reason: str
    seconds: float
    figures: ChoiceFigures


class ChoiceMetrics:
    """The counters and histograms of choices, vLLM's set under our names."""

    def __init__(self, families: Families) -> None:
        self._model_name = ""
        self._left: dict[str, _End] = {}
        """choices that ended before the engine told of a step of theirs, the oldest first"""
        self._lives: dict[str, _Life] = {}
        """engine requests that have not ended"""
        self._in_texts: set[str] = set()
        """of them, those whose newest token belongs to a clarifying text"""
        counter, histogram = families.counter, families.histogram
        self._prompt_tokens = counter(
            "prompt_tokens", "Tokens of prompts whose first choice began, once for all choices of a prompt."
        )
        self._success = counter(
            "request_success",
            "Choices that ran and ended, by reason (stop, length, cancelled, error).",
            "finished_reason",
        )
        self._clarifying = counter("clarifying_texts", "Times that CLARIFY inserted its text into a choice.")
        self._first = histogram(
            "time_to_first_token_seconds", "From a request's arrival to the first token of a choice.", WAIT
        )
        self._between = families.batched_histogram(
            "inter_token_latency_seconds",
            "Between a choice's tokens, one observation a token but the first.",
            SHORT,
        )
        self._per_token = histogram(
            "request_time_per_output_token_seconds",
            "Mean time between the tokens of a choice that ran, where it has two at least.",
            SHORT,
        )
        self._whole = histogram(
            "e2e_request_latency_seconds", "From a request's arrival to the end of a choice that ran.", LONG
        )
        self._queue = histogram(
            "request_queue_time_seconds", "From a request's arrival to the first step of a choice.", WAIT
        )
        self._inference = histogram(
            "request_inference_time_seconds", "From the first step of a choice to its end.", LONG
        )
        self._prefill = histogram(
            "request_prefill_time_seconds", "From the first step of a choice to its first token.", LONG
        )
        self._decode = histogram(
            "request_decode_time_seconds", "From the first token of a choice to its end.", LONG
        )
        self._prompts = histogram("request_prompt_tokens", "Tokens of the prompt, a choice that ran.", TOKENS)
        self._computed = histogram(
            "request_prefill_kv_computed_tokens",
            "Tokens of the prompt that the KV cache lacked, a choice that ran.",
            TOKENS,
        )
        self._generated = histogram(
            "request_generation_tokens", "Tokens of the reply, a choice that ran.", TOKENS
        )
        self._max_tokens = histogram(
            "request_params_max_tokens",
            "Tokens that a choice may have: its max_tokens, or what is left of the context.",
            TOKENS,
        )
        self._n = histogram("request_params_n", "Choices asked for, one observation a prompt.", CHOICES)
        self._preemptions = histogram(
            "request_num_preemptions",
            "Times that a choice gave its KV cache blocks up, a choice that ran.",
            (0, *CHOICES),
        )

    def bind(self, model_name: str) -> None:
        """Names the model, and begins every series at 0."""
        self._model_name = model_name
        for reason in FinishReason:
            self._success.labels(model_name, reason.value)

    def on_step(self, report: StepReport) -> None:
        """Counts the queue times, preemptions and clarifying texts of an engine step."""
        for request_id, seconds in report.queued_seconds:
            self._queue.labels(self._model_name).observe(seconds, exemplar(request_id))
            if (left := self._left.pop(request_id, None)) is not None:
                self._count_end(request_id, _Life(ran=True, queued=min(seconds, left.seconds)), left)
            if (life := self._lives.get(request_id)) is not None:
                life.ran = True
                # a choice that was preempted begins to run again; its first step stays the first
                life.queued = seconds if life.queued is None else life.queued
        if self._left:
            for output in report.outputs:
                if output.finish_reason is not None:
                    self._left.pop(output.request_id, None)  # it ended without a step
        for request_id in report.preempted:
            if (life := self._lives.get(request_id)) is not None:
                life.preemptions += 1
        if self._in_texts or any(t.forced for output in report.outputs for t in output.tokens):
            for output in report.outputs:
                if output.request_id in self._lives:
                    self._count_texts(output)

    def _count_texts(self, output: RequestOutput) -> None:
        """Counts the clarifying texts that begin: a forced token that follows none."""
        for token in output.tokens:
            if not token.forced:
                self._in_texts.discard(output.request_id)
            elif output.request_id not in self._in_texts:
                self._in_texts.add(output.request_id)
                self._clarifying.labels(self._model_name).inc()

    def on_prompts(self, number: int, n: int) -> None:
        """Counts ``number`` prompts of a request that is taken, with ``n`` choices asked for each."""
        for _ in range(number):
            self._n.labels(self._model_name).observe(n)

    def on_begin(self, request_id: str) -> None:
        """Notes that a choice is handed to the engine, which may refuse it."""
        self._lives[request_id] = _Life()

    def on_ran(self, request_id: str) -> None:
        """Notes that the engine ran something of a choice, so that its end will count."""
        if (life := self._lives.get(request_id)) is not None:
            life.ran = True

    def on_first_token(self, request_id: str, seconds: float, prompt_tokens: int) -> None:
        """Counts a choice's first token, and its prompt's tokens (0 unless it is the first choice)."""
        if (life := self._lives.get(request_id)) is not None:
            life.ran, life.first = True, seconds
        self._first.labels(self._model_name).observe(seconds, exemplar(request_id))
        self._prompt_tokens.labels(self._model_name).inc(prompt_tokens)

    def on_prompt_alone(self, prompt_tokens: int) -> None:
        """Counts the tokens of a prompt whose choice has no token (0 unless it is the first choice)."""
        self._prompt_tokens.labels(self._model_name).inc(prompt_tokens)

    def on_tokens(self, seconds: float, count: int) -> None:
        """Counts ``count`` further tokens of a choice, ``seconds`` after the tokens before them."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def on_end(self, request_id: str, reason: str, seconds: float, figures: ChoiceFigures) -> bool:
        """Counts a choice's end, well or not. Returns False, and counts nothing, where it never ran."""
        life = self._lives.pop(request_id, None)
        self._in_texts.discard(request_id)
        if life is None:
            return False
        end = _End(reason, seconds, figures)
        if not life.ran:
            # the engine may be in its first step now, whose report comes later
            self._left[request_id] = end
            if len(self._left) > _MOST_LEFT:
                del self._left[next(iter(self._left))]
            return False
        self._count_end(request_id, life, end)
        return True

    def _count_end(self, request_id: str, life: _Life, end: _End) -> None:
        """Counts the end of a choice that ran."""
        name, labels = self._model_name, exemplar(request_id)
        reason, seconds, figures = end
        self._success.labels(name, reason).inc()
        self._whole.labels(name).observe(seconds, labels)
        self._prompts.labels(name).observe(figures.prompt)
        self._computed.labels(name).observe(figures.prompt - figures.cached)
        self._generated.labels(name).observe(figures.generated)
        self._max_tokens.labels(name).observe(figures.max_tokens)
        self._preemptions.labels(name).observe(life.preemptions)
        if life.queued is not None:
            self._inference.labels(name).observe(max(seconds - life.queued, 0.0), labels)
        if life.first is not None:
            if life.queued is not None:
                self._prefill.labels(name).observe(max(life.first - life.queued, 0.0), labels)
            decode = max(seconds - life.first, 0.0)
            self._decode.labels(name).observe(decode, labels)
            if figures.generated > 1:
                self._per_token.labels(name).observe(decode / (figures.generated - 1), labels)
