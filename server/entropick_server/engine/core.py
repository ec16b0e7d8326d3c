"""The engine without its thread: add, cancel and step, all called by one thread.

``step`` is schedule, forward, sample, finish; the rest keeps what happened between two steps.
"""

from __future__ import annotations

import time
from dataclasses import replace

from entropick_kernels import warmup
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile

from .base import ModelLoadError
from .cache import CacheShape, KVCache, pages_that_fit
from .fused import FusedDecoder
from .loader import Loaded
from .model_runner import ModelRunner
from .pages import PagePool
from .sampling import StepSampler
from .scheduler import Batch, Scheduler
from .sequence import Sequence
from .types import (
    EngineLoad,
    EngineOptions,
    FinishReason,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
    Token,
)

_WARM_UP = "warm-up"
_STEP_FAILED = "the engine failed while it ran this request; the server's log says why"


class EngineCore:
    """Everything that owns tensors. Build and use it in one thread, under ``torch.inference_mode``."""

    def __init__(self, loaded: Loaded, options: EngineOptions, profile: Profile | None) -> None:
        """Raises ModelLoadError where the options leave no room for a cache or for prompts."""
        parameter = next(loaded.model.parameters())
        shape = CacheShape(
            loaded.layers, loaded.kv_heads, loaded.head_dim, options.page_size, 1, parameter.dtype
        )
        pages = pages_that_fit(
            shape.page_bytes,
            options.kv_cache_bytes,
            options.max_num_seqs,
            loaded.info.max_model_len,
            options.page_size,
        )
        if pages * options.page_size < 2:
            raise ModelLoadError(
                f"kv_cache_bytes {options.kv_cache_bytes} holds no two pages of {shape.page_bytes} bytes: "
                "raise it"
            )
        # a request may fill the cache alone, never more than that
        self.info: ModelInfo = replace(
            loaded.info, max_model_len=min(loaded.info.max_model_len, pages * options.page_size)
        )
        self._pool = PagePool(pages)
        try:
            self._scheduler = Scheduler(
                self._pool,
                options.page_size,
                options.max_num_seqs,
                options.max_queue,
                options.max_num_batched_tokens,
            )
        except ValueError as error:
            raise ModelLoadError(str(error)) from error
        cache = KVCache(replace(shape, pages=pages + 1), parameter.device)
        model = loaded.model
        fused = FusedDecoder(model, self.info.max_model_len) if FusedDecoder.serves(model) else None
        self._runner = ModelRunner(model, cache, self.info.monitored_layers, fused)
        self._sampler = StepSampler(loaded.tokenizer, profile, self.info.monitored_layers, parameter.device)
        self._batch = Batch((), ())
        self._between: list[tuple[RequestOutput, int]] = []

    @property
    def idle(self) -> bool:
        """True where no request waits or runs."""
        return self._scheduler.idle

    def load(self) -> EngineLoad:
        """The gauges of this moment."""
        return self._scheduler.load()

    def warm_up(self) -> None:
        """Run a little text through everything, so that no request pays for first uses.

        Raises ModelLoadError where the model gives no finite logits.
        """
        warmup()
        request = Request(
            _WARM_UP,
            (0,) * min(4, self.info.max_model_len - 1),
            SamplingParams(temperature=1.0, max_tokens=3),
            PolicyConfig(policy="entropix", preset="seed"),
            time.monotonic(),
        )
        self.add(request)
        while not self.idle:
            for output in self.step().outputs:
                if output.error is not None:
                    raise ModelLoadError(output.error)

    def set_profile(self, profile: Profile) -> None:
        """Serve with another profile."""
        self._sampler.set_profile(profile)

    def add(self, request: Request) -> None:
        """Queue a request; one that can never run ends with an error in the next report.

        Raises QueueFullError.
        """
        try:
            self._check(request)
            sequence = Sequence.of(request, self.info.max_model_len)
            self._scheduler.add(sequence)
        except ValueError as error:
            self._between.append((_failed(request.request_id, str(error)), -1))

    def cancel(self, request_id: str) -> None:
        """Forget a request, if it has not ended; its pages are free at once."""
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._end(sequence)
            output = RequestOutput(request_id, (), FinishReason.CANCELLED)
            self._between.append((output, sequence.slot))

    def step(self) -> StepReport:
        """Run one step and report it."""
        begin = time.perf_counter()
        batch = self._batch = self._scheduler.schedule()
        queued = self._first_steps(batch)
        measured = self._runner.forward(batch)
        self._scheduler.advance(batch)
        results: list[tuple[RequestOutput, int]] = []
        if measured is not None:
            for sequence, token in zip(measured.rows, self._sampler.sample(measured), strict=True):
                results.append((self._emit(sequence, token), sequence.slot))
        return self._report(results, queued, time.perf_counter() - begin)

    def fail_step(self) -> StepReport:
        """End every request of the step that raised; the others go on. Only the log learns the reason."""
        results = []
        for sequence in self._batch.sequences:
            if self._scheduler.find(sequence.request.request_id) is sequence:
                self._end(sequence)
                results.append((_failed(sequence.request.request_id, _STEP_FAILED), sequence.slot))
        return self._report(results, (), 0.0)

    def report_between(self) -> StepReport | None:
        """What happened since the last report without a step (cancels, refusals); None if nothing did."""
        return self._report([], (), 0.0) if self._between else None

    def _check(self, request: Request) -> None:
        for name, ids in (("prompt", request.prompt_token_ids), ("forced", request.forced_token_ids)):
            if ids and not (min(ids) >= 0 and max(ids) < self.info.vocab_size):
                raise ValueError(f"{name} token ids must be 0 to {self.info.vocab_size - 1}")
        self._sampler.check(request)

    def _emit(self, sequence: Sequence, token: Token | str) -> RequestOutput:
        request_id = sequence.request.request_id
        if isinstance(token, str):
            self._runner.clear(sequence.pages)
            self._end(sequence)
            return _failed(request_id, token)
        reason = sequence.take(token.token_id)
        if reason is not None:
            self._end(sequence)
        return RequestOutput(request_id, (token,), reason)

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.finish(sequence)

    def _first_steps(self, batch: Batch) -> tuple[tuple[str, float], ...]:
        now = time.monotonic()
        queued = []
        for chunk in batch.chunks:
            sequence = chunk.sequence
            if sequence.first_step is None:
                sequence.first_step = now
                queued.append((sequence.request.request_id, now - sequence.request.arrival))
        return tuple(queued)

    def _report(
        self, results: list[tuple[RequestOutput, int]], queued: tuple[tuple[str, float], ...], seconds: float
    ) -> StepReport:
        results = self._between + results
        self._between = []
        return StepReport(
            tuple(output for output, _ in results),
            tuple(slot for _, slot in results),
            self._scheduler.load(),
            queued,
            seconds,
        )


def _failed(request_id: str, text: str) -> RequestOutput:
    return RequestOutput(request_id, (), FinishReason.ERROR, text)


def build(loaded: Loaded, options: EngineOptions, profile: Profile | None) -> EngineCore:
    """A warm core. Raises ModelLoadError where the model does not run."""
    try:
        core = EngineCore(loaded, options, profile)
        core.warm_up()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{loaded.info.source} was loaded but does not run: {error}") from error
    return core
