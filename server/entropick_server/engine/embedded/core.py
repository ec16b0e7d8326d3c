"""The embedded engine without its thread: add, cancel and step, all called by one thread."""

from __future__ import annotations

import time
from dataclasses import replace

from entropick_kernels.decoder import NativeDecoder
from entropick_sampler.profile import Profile

from ..base import ModelLoadError
from ..reply import check_request
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
from .commit import Committer
from .decoders import choose_decoder
from .loader import Loaded
from .model_runner import ModelRunner
from .modules_decoder import ModulesDecoder
from .sampling import StepSampler
from .scheduler import Scheduler
from .sequence import Sequence
from .torch_decoder import TorchDecoder

_STEP_FAILED = "the engine failed while it ran this request; the server's log says why"


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
        try:
            self._scheduler = Scheduler(
                BlockPool(blocks),
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
        self._committer = Committer(self._scheduler, self._runner, loaded.tokenizer)
        self._profile = profile
        self._batch: Batch | None = None
        """the batch of the step that runs"""
        self.measures = options.measure

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
        """Runs one step and reports it."""
        began, self._batch = time.monotonic(), None
        batch = self._batch = self._scheduler.schedule()
        self._sampler.prepare(batch)
        output = self._runner.forward(batch)
        drawn = self._sampler.sample(output)
        report = self._committer.commit(batch, drawn, began)
        layers = self._sampler.watched_layers(began)
        return report if layers is None else replace(report, layers=layers)

    def fail_step(self) -> StepReport:
        """Ends the requests of the step that raised; the others go on. Only the log learns the reason.

        Where no batch had been chosen yet the scheduler itself failed, and every request ends.
        """
        failed = self._scheduler.roots()
        if self._batch is not None:
            requests = {sequence.request.request_id for sequence in self._batch.sequences}
            failed = [root for root in failed if root.request.request_id in requests]
        for root in failed:
            self._committer.end(root, FinishReason.ERROR, _STEP_FAILED)
        return self._committer.report()

    def report_between(self) -> StepReport | None:
        """Reports cancelled and refused requests without a step. Returns None where there are none."""
        return self._committer.report() if self._committer.has_outputs else None
