"""The logits processor: measures, decides and draws for every row of ours, and leaves one token to each.

One class for both of vLLM's runners: V1 calls ``update_state`` and ``apply(logits)``, V2 ``add_request`` and
``apply(logits, ctx)``. Rows without our field in ``extra_args`` are left as they are. In a plain vLLM:
``vllm serve MODEL --logits-processors entropick_server.engine.vllm.processor:EntropickProcessor``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as V1Processor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as V2Processor

from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import NOTHING, StepColumns, StepRow
from entropick_sampler.packed import HEADER, INSERTED
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT

from ..reply import ClarifyingText as ClarifyText
from ..tokenizer import FastTokenizer
from .attention.capture import Attention
from .attention.parallel import workers_of
from .hub import Hub, kernels
from .rows import Row, RowTable
from .side_channel import Mark
from .wire import FIELD, RowSpec, parse, servable

_DEFAULTS: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
"""vLLM's own: a client that sends these cannot be told from one that is silent"""
_PENALTIES: Mapping[str, float] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def row_spec(params: Any) -> RowSpec | None:
    """What a vLLM ``SamplingParams`` says to us, None for nothing. Raises ValueError that names the field."""
    told = (params.extra_args or {}).get(FIELD)
    if told is None:
        return None
    sampling = {n: None if getattr(params, n) == d else getattr(params, n) for n, d in _DEFAULTS.items()}
    for name, none in _PENALTIES.items():
        if getattr(params, name) != none:
            raise ValueError(f"{name}: not served together with {FIELD}")
    return parse(told, {**sampling, "seed": params.seed})


class EntropickProcessor(V1Processor, V2Processor):
    """See the module. Built by vLLM, once in every worker."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError, which clients see as a 400."""
        row_spec(sampling_params)

    def __init__(self, vllm_config: Any, second: Any, is_pin_memory: bool = False) -> None:
        """``second``: the device (V1), or the runner's ``LogitsProcRequestState`` (V2).

        Raises ValueError where speculative decoding is on, for a row must be one token a step, and where the
        workers share out the rows: each would measure the attention of others than it draws.
        """
        if vllm_config.speculative_config is not None:
            raise ValueError("entropick decides token by token: switch speculative decoding off")
        if getattr(vllm_config.parallel_config, "enable_batch_sharded_sampling", None):
            raise ValueError("entropick draws a step's rows together: switch batch-sharded sampling off")
        self._states = second if hasattr(second, "prompt_len") else None
        self._device = torch.device(second.device if self._states is not None else second)
        self._hub = Hub.of(vllm_config)
        self._kernels = kernels(vllm_config)
        source = vllm_config.model_config.tokenizer or vllm_config.model_config.model
        self._tokenizer = FastTokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
        self._hub.workers = workers_of(vllm_config)
        self._table = RowTable()
        self._version = -1
        self._clarify = ClarifyText()
        self._composed: list[Row | None] | None = None
        self._live: list[Row] = []
        self._mine: list[int] = []
        self._index: Tensor | None = None
        self._batch = SampledBatch([], None, self._device)

    def is_argmax_invariant(self) -> bool:
        """False: it must see greedy requests and come before temperatures (V1)."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: rows leave, join and move, in this order."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self._table.leave(place)
        for place, params, _, output in batch_update.added:
            self._table.join(place, row_spec(params), output)
        for source, target, way in batch_update.moved:
            self._table.move(source, target, swap=way == MoveDirectionality.SWAP)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot; whether it is ours."""
        spec = row_spec(sampling_params)
        self._table.join(req_idx, spec)
        return spec is not None

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Leave one token in the rows of ours: float32 [B, V], changed in place."""
        count = logits.shape[0]
        if ctx is None:
            rows = self._table.at(range(count))
            taken = [0 if row is None else len(row.output) for row in rows]
            thrown = self._hub.unfinished_prompts(count)
        else:
            rows, taken, thrown = self._places(ctx, count)
        self._compose(rows)
        if not self._live:
            self._hub.release()
            return logits
        self._draw(logits, [taken[i] for i in self._mine], self._hub.attention(count), thrown)
        return logits

    def _places(self, ctx: Any, count: int) -> tuple[list[Row | None], list[int], Sequence[bool]]:
        """V2: the rows of a step, how many tokens each has, and whose prompts are unfinished."""
        slots = ctx.idx_mapping_np
        if len(slots) != count:
            raise RuntimeError("entropick decides token by token: a request has several rows in this step")
        states, lengths = self._states, ctx.seq_lens_upper_bound_np
        if states is None:
            raise RuntimeError("this processor was built for V1")
        # what is filled again after a preemption holds tokens that were taken before it
        filled = states.prefill_len.np[slots]
        taken = (np.maximum(lengths, filled) - states.prompt_len.np[slots]).tolist()
        thrown: list[bool] = (lengths < filled).tolist()
        return self._table.at(slots.tolist()), taken, thrown

    def _draw(
        self, logits: Tensor, taken: list[int], attention: Attention | None, thrown: Sequence[bool] | None
    ) -> None:
        rows, batch = self._live, self._batch
        inputs, texts = [], []
        for row, count in zip(rows, taken, strict=True):
            row.settle(count, self._tokenizer)
            text = row.clarify_at(self._clarify, count)
            texts.append(text)
            inputs.append(
                StepRow(
                    row.spec.start + count,
                    row.forced[0] if row.forced else NOTHING,
                    text[0] if text else NOTHING,
                    row.clarify_used,
                    row.since_clarify,
                )
            )
        columns = StepColumns.of(inputs)
        part, signals = logits, None if attention is None else attention.signals
        if self._index is not None:
            part = logits.index_select(0, self._index)
            signals = None if signals is None else signals.index_select(0, self._index)
        if self._device.type != "cpu":
            # from pinned memory: a plain copy would wait for the forward before the sampler is launched
            columns = StepColumns(async_tensor_h2d(columns.data, device=self._device))
        packed = batch.step(part, signals, None, columns)
        tokens, told, marks = self._told(taken, packed, texts, part, attention, thrown)
        self._leave_one(logits, tokens)
        if marks and self._hub.outbox is not None:
            chosen = packed if len(told) == len(rows) else packed[told]
            self._hub.outbox.send(marks, chosen, batch.candidates)

    def _leave_one(self, logits: Tensor, tokens: list[int]) -> None:
        if logits.device.type == "cpu" and logits.dtype == torch.float32:
            # numpy writes the same memory without the cost of torch's dispatcher
            host = logits.numpy()
            host[... if self._index is None else self._mine] = -math.inf
            host[self._mine, tokens] = 0.0
            return
        token = torch.tensor(tokens).to(logits.device, non_blocking=True)
        if self._index is None:
            logits.fill_(-math.inf).scatter_(1, token.unsqueeze(1), 0.0)
        else:
            logits.index_fill_(0, self._index, -math.inf)
            logits[self._index, token] = 0.0

    def _compose(self, rows: list[Row | None]) -> None:
        """Resident parameters for these rows; rebuilt where they, or the profile, are others."""
        if self._version != self._hub.version:
            self._version, self._composed = self._hub.version, None
            profile = self._hub.profile
            text = profile.clarify_text if profile else DEFAULT_CLARIFY_TEXT
            self._clarify = ClarifyText.of(text, self._tokenizer)
        if rows == self._composed:
            return
        self._composed = None
        self._live = [row for row in rows if row is not None]
        self._mine = [i for i, row in enumerate(rows) if row is not None]
        whole = len(self._live) == len(rows)
        self._index = None if whole else torch.tensor(self._mine, device=self._device)
        specs = [servable(row.spec, self._hub.profile) for row in self._live]
        self._batch = SampledBatch(
            [(spec.sampling, spec.policy) for spec in specs],
            self._hub.profile,
            self._device,
            [spec.branch for spec in specs],
            self._kernels,
        )
        self._composed = rows

    def _told(
        self,
        taken: Sequence[int],
        packed: Tensor,
        texts: Sequence[tuple[int, ...]],
        logits: Tensor,
        attention: Attention | None,
        thrown: Sequence[bool] | None,
    ) -> tuple[list[int], list[int], list[Mark]]:
        """The rows' tokens; which rows the server is told of, and what. Before the logits are overwritten."""
        told, marks = [], []
        tops = _tops(self._live, packed, logits)
        host = packed.numpy()
        tokens: list[int] = host[:, HEADER].astype(np.int64).tolist()
        begins: list[float] = host[:, INSERTED].tolist()
        for i, (row, count, text) in enumerate(zip(self._live, taken, texts, strict=True)):
            inserted = begins[i] != 0
            forced = row.drew(count, tokens[i], text if inserted else ())
            spec, place = row.spec, self._mine[i]
            if spec.key is None or (thrown is not None and thrown[place]):
                continue
            detail = None
            if spec.policy.telemetry == "full" and attention is not None:
                detail = _detail(attention, place)
            told.append(i)
            marks.append(Mark(spec.key, spec.start + count, forced, inserted, tops.get(i, ()), detail))
        return tokens, told, marks


def _tops(rows: Sequence[Row], packed: Tensor, logits: Tensor) -> dict[int, tuple[tuple[int, float], ...]]:
    """The most probable tokens of the measured distribution, for the rows that ask."""
    wanted = {i: n for i, row in enumerate(rows) if (n := row.spec.sampling.logprobs)}
    if not wanted:
        return {}
    chosen = logits.index_select(0, torch.tensor(list(wanted), device=logits.device))
    best = chosen.topk(min(max(wanted.values()), chosen.shape[1]))
    # the emitted token's normaliser and arithmetic, so that the two agree to the bit
    normaliser = packed[list(wanted), -2:].to(logits.device, chosen.dtype)
    logprobs = (best.values - normaliser[:, :1] - normaliser[:, 1:]).clamp_max(0)
    return {
        i: tuple(zip(ids[:n], values[:n], strict=True))
        for (i, n), ids, values in zip(wanted.items(), best.indices.tolist(), logprobs.tolist(), strict=True)
    }


def _detail(attention: Attention, row: int) -> dict[str, Any]:
    """What telemetry ``full`` adds, by monitored layer and head."""
    return {
        "entropy": attention.heads.entropy[:, row].tolist(),
        "scores": attention.heads.mean_abs_score[:, row].tolist(),
        "per_layer": attention.by_layer[:, row].tolist(),
    }
