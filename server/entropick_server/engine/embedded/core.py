"""The engine without its thread: add, cancel and step, all called by one thread.

``step`` is schedule, forward, sample, finish; the rest keeps what happened between two steps.
"""

from __future__ import annotations

import time
from dataclasses import replace

from entropick_sampler.profile import Profile

from ..base import ModelLoadError
from ..types import (
    DEFAULT_BATCHED_TOKENS,
    DEFAULT_KV_CACHE_BYTES,
    DEFAULT_PAGE_SIZE,
    BranchVerdict,
    EngineLoad,
    EngineOptions,
    FinishReason,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
    Token,
)
from .batch import Batch
from .branching import Rollouts
from .cache import CacheShape, KVCache, pages_that_fit
from .loader import Loaded
from .model_runner import ModelRunner
from .native_decoder import NativeLlamaDecoder, choose_decoder
from .pages import PagePool
from .sampling import Drawn, StepSampler
from .scheduler import Scheduler
from .sequence import Sequence

_NOTHING = Batch((), ())
_STEP_FAILED = "the engine failed while it ran this request; the server's log says why"


class EngineCore:
    """Everything that owns tensors. Build and use it in one thread, under ``torch.inference_mode``."""

    def __init__(self, loaded: Loaded, options: EngineOptions, profile: Profile | None) -> None:
        """Raises ModelLoadError where the options leave no room for a cache or for prompts."""
        page_size = DEFAULT_PAGE_SIZE if options.page_size is None else options.page_size
        kv_cache_bytes = DEFAULT_KV_CACHE_BYTES if options.kv_cache_bytes is None else options.kv_cache_bytes
        batched_tokens = options.max_num_batched_tokens
        if batched_tokens is None:
            batched_tokens = DEFAULT_BATCHED_TOKENS
        parameter = next(loaded.model.parameters())
        shape = CacheShape(loaded.layers, loaded.kv_heads, loaded.head_dim, page_size, 1, parameter.dtype)
        pages = pages_that_fit(
            shape.page_bytes,
            kv_cache_bytes,
            options.max_num_seqs,
            loaded.info.max_model_len,
            page_size,
        )
        if pages * page_size < 2:
            raise ModelLoadError(
                f"kv_cache_bytes {kv_cache_bytes} holds no two pages of {shape.page_bytes} bytes: raise it"
            )
        # a request may fill the cache alone, never more than that
        self.info: ModelInfo = replace(
            loaded.info, max_model_len=min(loaded.info.max_model_len, pages * page_size)
        )
        self._pool = PagePool(pages)
        try:
            self._scheduler = Scheduler(
                self._pool,
                page_size,
                options.max_num_seqs,
                options.max_queue,
                batched_tokens,
                options.enable_prefix_caching,
            )
        except ValueError as error:
            raise ModelLoadError(str(error)) from error
        cache = KVCache(replace(shape, pages=pages + 1), parameter.device)
        model = loaded.model
        kernels = None if options.kernels == "auto" else options.kernels
        # the native decoder attends with native loops
        decoder = "torch" if options.decoder == "auto" and kernels in ("torch", "triton") else options.decoder
        fused = choose_decoder(model, self.info.max_model_len, decoder)
        if not options.measure and not isinstance(fused, NativeLlamaDecoder):
            raise ModelLoadError("measure: only the native decoder can leave measuring out")
        monitored = self.info.monitored_layers if options.measure else ()
        self._runner = ModelRunner(model, cache, monitored, fused, kernels)
        self._sampler = StepSampler(
            loaded.tokenizer, profile, monitored, parameter.device, kernels, options.measure
        )
        self.measures = options.measure
        self._rollouts = Rollouts(self._scheduler)
        self._batch = _NOTHING
        self._verdicts: list[BranchVerdict] = []
        self._between: list[tuple[RequestOutput, int]] = []

    @property
    def idle(self) -> bool:
        """True where no request waits or runs."""
        return self._scheduler.idle

    def load(self) -> EngineLoad:
        """The gauges of this moment."""
        return self._scheduler.load()

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
        """Forget a request and its branches, if it has not ended; its pages are free at once."""
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            output = RequestOutput(request_id, (), FinishReason.CANCELLED)
            self._between.append((output, sequence.slot))
            self._scheduler.finish(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The row of a request that has not ended."""
        return self._scheduler.find(request_id)

    def fork(self, parent: Sequence, count: int) -> list[Sequence]:
        """``count`` branches of a request that continue where ``parent`` is, from the next step on.

        While a request has branches, its rows keep their tokens (``Sequence.undelivered``) and nothing of it
        is delivered: :meth:`adopt` says which row's tokens are the reply's. Raises ValueError for a row that
        has ended.
        """
        branches, tail = self._scheduler.fork(parent, count)
        if tail is not None:
            self._runner.copy(tail.source, tail.targets)
        return branches

    def drop(self, branch: Sequence) -> None:
        """Forget a branch; its pages are free at once. Without any left the request's own row is adopted."""
        siblings = self._scheduler.branches(branch)
        if branch in siblings:
            root = self._scheduler.root_of(branch)
            self._scheduler.finish(branch)
            if len(siblings) == 1:
                self._settle(root)

    def adopt(self, row: Sequence) -> None:
        """The request goes on as one of its rows, whose tokens are delivered; all others are forgotten.

        Raises ValueError for a row of no running request.
        """
        self._settle(self._scheduler.adopt(row))
        self._sampler.recompose()

    def step(self) -> StepReport:
        """Run one step and report it."""
        begin = time.perf_counter()
        batch = self._batch = self._scheduler.schedule()
        queued = self._first_steps(batch)
        for copy in batch.copies:
            self._runner.copy(copy.source, copy.targets)
        measured = self._runner.forward(batch) if batch.tokens else None
        self._scheduler.advance(batch)
        results: list[tuple[RequestOutput, int]] = []
        if measured is not None:
            for sequence, drawn in zip(measured.rows, self._sampler.sample(measured), strict=True):
                slot = sequence.slot  # it has none once it has ended
                if (output := self._emit(sequence, drawn)) is not None:
                    results.append((output, slot))
        for winner, verdict in self._rollouts.judge():
            self._verdicts.append(verdict)
            self.adopt(winner)
        return self._report(results, queued, time.perf_counter() - begin, batch)

    def fail_step(self) -> StepReport:
        """End every request of the step that raised; the others go on. Only the log learns the reason."""
        results = []
        for row in self._batch.sequences:
            sequence = self._scheduler.find(row.request.request_id)
            if sequence is not None and sequence.request is row.request:
                results.append((_failed(row.request.request_id, _STEP_FAILED), sequence.slot))
                self._scheduler.finish(sequence)
        return self._report(results, (), 0.0)

    def report_between(self) -> StepReport | None:
        """What happened since the last report without a step (cancels, refusals); None if nothing did."""
        return self._report([], (), 0.0) if self._between else None

    def _check(self, request: Request) -> None:
        for name, ids in (("prompt", request.prompt_token_ids), ("forced", request.forced_token_ids)):
            if ids and not (min(ids) >= 0 and max(ids) < self.info.vocab_size):
                raise ValueError(f"{name} token ids must be 0 to {self.info.vocab_size - 1}")
        self._sampler.check(request)

    def _emit(self, sequence: Sequence, drawn: Drawn | str) -> RequestOutput | None:
        """Give a row its token, and open branches there if it is to; what its request is to be told now."""
        if sequence.slot < 0:
            return None  # its request ended with another row of this step
        if isinstance(drawn, str):
            self._runner.clear(self._scheduler.poisoned(sequence))
            if sequence.branch:
                sequence.ended = FinishReason.ERROR
                if sequence.rollout_end:
                    self._scheduler.suspend(sequence)  # the verdict passes it over
                else:
                    self.drop(sequence)
                return None
            self._scheduler.finish(sequence)
            return _failed(sequence.request.request_id, drawn)
        self._scheduler.register(sequence)
        if depth := self._rollouts.depth(sequence, drawn):
            branches = self.fork(sequence, len(drawn.firsts))
            self._rollouts.begin((sequence, *branches), depth)
            for branch, first in zip(branches, drawn.firsts, strict=True):
                branch.unfinished = first.unfinished
                self._take(branch, first.token)
        return self._take(sequence, drawn.token)

    def _take(self, sequence: Sequence, token: Token) -> RequestOutput | None:
        reason = sequence.take(token.token_id)
        if self._scheduler.branches(sequence):
            sequence.undelivered.append(token)
            sequence.ended = reason
            if reason is not None:
                self._scheduler.suspend(sequence)
            return None
        if reason is not None:
            self._scheduler.finish(sequence)
        return _output(sequence, (token,), reason)

    def _settle(self, root: Sequence) -> None:
        """A request is down to its own row: deliver what that kept."""
        if root.undelivered or root.ended is not None:
            self._between.append((_output(root, tuple(root.undelivered), root.ended), root.slot))
            root.undelivered = []
        if root.ended is not None:
            self._scheduler.finish(root)

    def _first_steps(self, batch: Batch) -> tuple[tuple[str, float], ...]:
        now = time.monotonic()
        queued = []
        for chunk in batch.chunks:
            sequence = chunk.sequence
            if sequence.first_step is None and not sequence.branch:
                sequence.first_step = now
                queued.append((sequence.request.request_id, now - sequence.request.arrival))
        return tuple(queued)

    def _report(
        self,
        results: list[tuple[RequestOutput, int]],
        queued: tuple[tuple[str, float], ...],
        seconds: float,
        batch: Batch = _NOTHING,
    ) -> StepReport:
        results = self._between + results
        verdicts = tuple(self._verdicts)
        self._between, self._verdicts = [], []
        return StepReport(
            tuple(output for output, _ in results),
            tuple(slot for _, slot in results),
            self._scheduler.load(),
            queued,
            seconds,
            sum(sequence.prompt_length for sequence in batch.looked_up),
            sum(sequence.cached for sequence in batch.looked_up),
            tuple(sequence.request.request_id for sequence in batch.preempted),
            verdicts,
        )


def _output(row: Sequence, tokens: tuple[Token, ...], reason: FinishReason | None) -> RequestOutput:
    return RequestOutput(row.request.request_id, tokens, reason, None, row.cached, row.branch_spent)


def _failed(request_id: str, text: str) -> RequestOutput:
    return RequestOutput(request_id, (), FinishReason.ERROR, text)
