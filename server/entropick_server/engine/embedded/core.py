"""The embedded engine without its thread: add, cancel and step, all called by one thread."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial

import torch

from entropick_kernels.decoder import NativeDecoder
from entropick_sampler.profile import Profile

from ..base import ModelLoadError
from ..reply import Drawn, check_request
from ..types import (
    DEFAULT_BATCHED_TOKENS,
    DEFAULT_BLOCK_SIZE,
    DEFAULT_KV_CACHE_BYTES,
    EngineGauges,
    EngineOptions,
    FinishReason,
    ModelInfo,
    Request,
    RequestOutput,
    StepReport,
)
from .batch import Batch
from .block_pool import BlockPool
from .cache import CacheShape, KVCache, blocks_that_fit
from .commit import STEP_FAILED, Committer
from .decoders import choose_decoder, native_in_place_of
from .isolation import Ran, isolate, part
from .loader import Loaded
from .model_runner import ModelRunner
from .modules_decoder import ModulesDecoder
from .sampling import StepSampler
from .scheduler import Scheduler
from .sequence import Sequence
from .torch_decoder import TorchDecoder

_log = logging.getLogger(__name__)


class EngineCore:
    """The owner of all tensors. Build and use it in one thread, under ``torch.inference_mode``."""

    def __init__(self, loaded: Loaded, options: EngineOptions, profile: Profile | None) -> None:
        """Raises ModelLoadError where the options leave no room for a cache or for prompts."""
        model = loaded.model
        parameter = next(model.parameters())
        block_size = options.block_size or DEFAULT_BLOCK_SIZE
        shape = CacheShape(loaded.layers, loaded.kv_heads, loaded.head_dim, block_size, 1, parameter.dtype)
        blocks = blocks_that_fit(
            shape,
            options.kv_cache_bytes or DEFAULT_KV_CACHE_BYTES,
            None if options.enable_prefix_caching else options.max_num_seqs,
            loaded.info.max_model_len,
        )
        # a request may fill the cache alone, never more than that
        self.info: ModelInfo = replace(
            loaded.info, max_model_len=min(loaded.info.max_model_len, blocks * block_size)
        )
        self._pool = BlockPool(blocks)
        try:
            self._scheduler = Scheduler(
                self._pool,
                block_size,
                options.max_num_seqs,
                options.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS,
                options.enable_prefix_caching,
            )
        except ValueError as error:
            raise ModelLoadError(str(error)) from error
        kernels = None if options.kernels == "auto" else options.kernels
        decoder = choose_decoder(loaded, self.info.max_model_len, options)
        modules = decoder if isinstance(decoder, ModulesDecoder) else None
        self.info = replace(
            self.info,
            layer_entropy=modules is None,
            prompt_logprobs=modules is None or modules.ranks_prompts,
        )
        if NativeDecoder is not None and isinstance(decoder, NativeDecoder):
            weights = "file" if options.weights == "auto" else options.weights
            self.info = replace(self.info, weights=weights, weight_bytes=decoder.weight_bytes)
        if not options.measure and isinstance(decoder, TorchDecoder | ModulesDecoder):
            raise ModelLoadError("measure: only the native decoder can leave measuring out")
        monitored = self.info.monitored_layers if options.measure else ()
        cache = KVCache(replace(shape, blocks=blocks + 1), parameter.device)
        self._runner = ModelRunner(decoder, cache, monitored, costs=options.measure)
        self._sampler = StepSampler(
            loaded.tokenizer,
            profile,
            monitored,
            parameter.device,
            loaded.info.vocab_size,
            kernels,
            options.measure,
        )
        self._loaded, self._options = loaded, options
        self._committer = Committer(self._scheduler, self._runner, loaded.tokenizer)
        self._profile = profile
        self._batch: Batch | None = None
        """the batch of the step that runs"""
        self.measures = options.measure

    def use_native(self) -> None:
        """Lets native code serve from the next step on, in the place of torch's operations."""
        if native_in_place_of(self._runner.decoder, self._loaded.model):
            longest = self.info.max_model_len
            self._runner.decode_with(partial(choose_decoder, self._loaded, longest, self._options))
            self._runner.arrange_keys(self._pool.filled())
        self._sampler.lay_out_again()

    @property
    def idle(self) -> bool:
        """Tells whether no request waits or runs."""
        return self._scheduler.idle

    def gauges(self) -> EngineGauges:
        """Counts the gauges of this moment."""
        return self._scheduler.gauges()

    def set_profile(self, profile: Profile) -> None:
        """Decides with another profile from the next step on."""
        self._profile = profile
        self._sampler.set_profile(profile)

    def add(self, request: Request) -> None:
        """Queues a request. A request that can never run ends with an error in the next report."""
        try:
            check_request(request, self.info, self._profile, measures=self.measures)
            self._scheduler.add(Sequence.of(request, self.info.max_model_len))
        except ValueError as error:
            output = RequestOutput(request.request_id, (), FinishReason.ERROR, str(error))
            self._committer.add_output(output)

    def cancel(self, request_id: str) -> None:
        """Forgets a request and its branches, if it has not ended; its blocks are free at once."""
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._committer.end(sequence, FinishReason.CANCELLED)

    def find(self, request_id: str) -> Sequence | None:
        """Finds the own sequence of a request that has not ended."""
        return self._scheduler.find(request_id)

    def fork(self, parent: Sequence, count: int) -> list[Sequence]:
        """Makes branches of a request between two steps; see :meth:`.commit.Committer.fork`."""
        return self._committer.fork(parent, count)

    def drop(self, branch: Sequence) -> None:
        """Forgets a branch between two steps; see :meth:`.commit.Committer.drop`."""
        self._committer.drop(branch)

    def adopt(self, sequence: Sequence) -> None:
        """Ends a request's branches between two steps; see :meth:`.commit.Committer.adopt`."""
        self._committer.adopt(sequence)

    def step(self) -> StepReport:
        """Runs one step and reports it.

        Where it raises for some sequences alone, these end and the others go on as if nothing had happened;
        where it raises whatever runs, raises that error.
        """
        began, self._batch = time.monotonic(), None
        batch = self._batch = self._scheduler.schedule()
        failed: tuple[Sequence, ...] = ()
        self._sampler.begin()
        try:
            drawn = self._run(batch)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - only the requests that it raises for are to end
            ran = self._isolate(batch, error)
            failed = tuple(ran.failed)
            batch = part(batch, (s for s in batch.sequences if s not in ran.failed))
            drawn = [ran.drawn[row] for row in batch.rows]
        layers = self._sampler.watched_layers(began)
        report = self._committer.commit(batch, drawn, began, failed)
        return report if layers is None else replace(report, layers=layers)

    def _run(self, batch: Batch) -> list[Drawn]:
        """Runs a batch or a part of it, and draws a token for each of its rows."""
        self._sampler.prepare(batch)
        return self._sampler.sample(self._runner.forward(batch))

    def _isolate(self, batch: Batch, error: Exception) -> Ran:
        """Runs a batch that raised again in parts, and logs the sequences that are lost."""

        def run(some: Batch) -> list[Drawn]:
            self._runner.recover()
            self._sampler.recover()
            return self._run(some)

        ran = isolate(batch, run, error)
        self._sampler.recover()
        for sequence, reason in ran.failed.items():
            name = sequence.request.request_id
            _log.error("a step failed for the request %s alone, which ends", name, exc_info=reason)
        if not ran.failed:
            _log.warning("a step failed, and worked in parts: no request ends", exc_info=error)
        return ran

    def fail_step(self) -> StepReport:
        """Ends all requests of the step that raised; the others go on. Only the log learns the reason.

        Where no batch had been chosen yet the scheduler itself failed, and every request ends.
        """
        failed = self._scheduler.roots()
        if self._batch is not None:
            requests = {sequence.request.request_id for sequence in self._batch.sequences}
            failed = [root for root in failed if root.request.request_id in requests]
        for root in failed:
            self._committer.end(root, FinishReason.ERROR, STEP_FAILED)
        return self._committer.report()

    def report_between(self) -> StepReport | None:
        """Reports cancelled and refused requests without a step. Returns None where there are none."""
        return self._committer.report() if self._committer.has_outputs else None
