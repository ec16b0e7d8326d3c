"""The logits processor: measures, decides and draws for every row of ours, and leaves one token to each.

One class for both of vLLM's runners: V1 calls ``update_state`` and ``apply(logits)``, V2 ``add_request`` and
``apply(logits, ctx)``. Rows without our field in ``extra_args`` are left as they are. In a plain vLLM:
``vllm serve MODEL --logits-processors entropick_server.engine.vllm.processor:EntropickProcessor``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as V1Processor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as V2Processor

from entropick_sampler.adjustments import Adjustments, Masks
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns
from entropick_sampler.packed import HEADER, INSERTED, SURPRISAL, unpack
from entropick_sampler.profile import DEFAULT_CLARIFY_TEXT

from ..adjusting import adjust_rows
from ..reply import ClarifyingText, step_columns
from ..tokenizer import FastTokenizer
from ..tokens import HeadEntropies, attention_details, most_probable_tokens, top_logprobs
from .attention.capture import Attention
from .attention.parallel import tensor_parallel_group
from .row_grammars import RowGrammars
from .row_surprisals import surprisal_lines
from .rows import Row, RowTable
from .side_channel import Mark
from .wire import FIELD, RowSpec, parse, servable
from .worker_context import WorkerContext

_DEFAULTS: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
"""vLLM's own: a client that sends these cannot be told from one that is silent"""
_PENALTIES: Mapping[str, float] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def row_spec(params: Any) -> RowSpec | None:
    """Reads the specification of a row from a vLLM ``SamplingParams``, None where it has none for us.

    Raises ValueError that names the field.
    """
    field = (params.extra_args or {}).get(FIELD)
    if field is None:
        return None
    sampling = {n: None if getattr(params, n) == d else getattr(params, n) for n, d in _DEFAULTS.items()}
    for name, none in _PENALTIES.items():
        if getattr(params, name) != none:
            raise ValueError(f"{name}: not served together with {FIELD}")
    return parse(field, {**sampling, "seed": params.seed})


class EntropickProcessor(V1Processor, V2Processor):
    """The logits processor of this module. vLLM builds it, once in every worker."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which clients see as a 400, for a request that cannot be served."""
        row_spec(sampling_params)

    def __init__(self, vllm_config: Any, second: Any, is_pin_memory: bool = False) -> None:
        """Joins the worker's context. ``second``: the device (V1), or ``LogitsProcRequestState`` (V2).

        Raises ValueError where speculative decoding is on, for a row must be one token a step, and where the
        workers share out the rows: each would measure the attention of other rows than it draws.
        """
        if vllm_config.speculative_config is not None:
            raise ValueError("entropick decides token by token: switch speculative decoding off")
        if getattr(vllm_config.parallel_config, "enable_batch_sharded_sampling", None):
            raise ValueError("entropick draws a step's rows together: switch batch-sharded sampling off")
        self._states = second if hasattr(second, "prompt_len") else None
        self._device = torch.device(second.device if self._states is not None else second)
        self._context = WorkerContext.of(vllm_config)
        self._context.group = tensor_parallel_group(vllm_config)
        source = vllm_config.model_config.tokenizer or vllm_config.model_config.model
        self._tokenizer = FastTokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
        self._grammars: RowGrammars | None = None
        self._table = self._context.rows = RowTable()
        self._version = -1
        self._clarifying = ClarifyingText()
        self._composed: list[Row | None] | None = None
        # our rows, their row numbers in the logits, and these as a tensor where other rows are among them
        self._rows: list[Row] = []
        self._row_numbers: list[int] = []
        self._index: Tensor | None = None
        self._batch = SampledBatch([], None, self._device)

    def is_argmax_invariant(self) -> bool:
        """Returns False: it must see greedy requests and come before temperatures (V1)."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follows the rows that leave, join and move, in this order (V1)."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._table.leave(index)
        for index, params, _, output in batch_update.added:
            self._table.join(index, row_spec(params), output)
        for source, target, way in batch_update.moved:
            self._table.move(source, target, swap=way == MoveDirectionality.SWAP)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Follows a request that joins (V2). Returns whether it is ours."""
        spec = row_spec(sampling_params)
        self._table.join(req_idx, spec)
        return spec is not None

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Leaves one token in the rows of ours: float32 [B, V], changed in place."""
        count = logits.shape[0]
        if ctx is None:
            rows = self._table.at(range(count))
            taken = [0 if row is None else len(row.output) for row in rows]
            discarded = self._context.unfinished_prompts(count)
        else:
            rows, taken, discarded = self._rows_of_step(ctx, count)
        self._compose(rows)
        if not self._rows:
            self._context.take_captured()
            return logits
        taken = [taken[i] for i in self._row_numbers]
        for row, tokens in zip(self._rows, taken, strict=True):
            row.settle(tokens, self._tokenizer)
        self._draw(logits, taken, self._context.attention(count, self._surprisals(rows)), discarded)
        return logits

    def _surprisals(self, rows: Sequence[Row | None]) -> Tensor | None:
        """Copies the surprisals of the step's rows to the device, where one wants token costs."""
        lines = surprisal_lines([None if row is None else row.surprisals for row in rows])
        if lines is None or self._device.type == "cpu":
            return lines
        copied: Tensor = async_tensor_h2d(lines, device=self._device)
        return copied

    def _rows_of_step(self, ctx: Any, count: int) -> tuple[list[Row | None], list[int], Sequence[bool]]:
        """V2: the rows of a step, how many tokens each has, and which tokens will be discarded."""
        indices = ctx.idx_mapping_np
        if len(indices) != count:
            raise RuntimeError("entropick decides token by token: a request has several rows in this step")
        states, lengths = self._states, ctx.seq_lens_upper_bound_np
        if states is None:
            raise RuntimeError("this processor was built for V1")
        # what is filled again after a preemption holds tokens that were taken before it
        filled = states.prefill_len.np[indices]
        taken = (np.maximum(lengths, filled) - states.prompt_len.np[indices]).tolist()
        discarded: list[bool] = (lengths < filled).tolist()
        return self._table.at(indices.tolist()), taken, discarded

    def _draw(
        self,
        logits: Tensor,
        taken: list[int],
        attention: Attention | None,
        discarded: Sequence[bool] | None,
    ) -> None:
        rows, batch = self._rows, self._batch
        replies = [row.reply for row in rows]
        columns, texts = step_columns(replies, self._clarifying)
        part, signals = logits, None if attention is None else attention.signals
        if self._index is not None:
            part = logits.index_select(0, self._index)
            signals = None if signals is None else signals.index_select(0, self._index)
        if self._device.type != "cpu":
            # from pinned memory: a plain copy would wait for the forward before the sampler is launched
            data = async_tensor_h2d(columns.data, device=self._device)
            columns = StepColumns(data, columns.begins)
        masks = self._allowed(rows, logits.shape[1])
        part, adjustments = adjust_rows(replies, part, masks)
        only = () if adjustments is None else adjustments.only_choices(part.shape[1])
        packed = batch.step(part, signals, None, columns, adjustments=adjustments)
        host = packed.numpy()
        tokens: list[int] = host[:, HEADER].astype(np.int64).tolist()
        begins: list[float] = host[:, INSERTED].tolist()
        surprisals: list[float] = host[:, SURPRISAL].tolist()
        drawn = zip(rows, taken, tokens, texts, begins, surprisals, strict=True)
        forced = [
            row.drew(count, token, text if inserted else (), surprisal, only_choice=number in only)
            for number, (row, count, token, text, inserted, surprisal) in enumerate(drawn)
        ]
        if self._context.outbox is not None:
            reported = [
                i
                for i, row in enumerate(rows)
                if row.spec.key is not None and not (discarded and discarded[self._row_numbers[i]])
            ]
            # before the logits are overwritten
            marks = self._marks(reported, forced, only, packed, part, attention, adjustments)
            if marks:
                chosen = packed if len(reported) == len(rows) else packed[reported]
                self._context.outbox.send(marks, chosen, batch.candidates)
        self._leave_one(logits, tokens)

    def _allowed(self, rows: Sequence[Row], vocabulary: int) -> Masks | None:
        """Returns the tokens that the rows' grammars allow; None where no row follows a grammar."""
        if all(row.spec.grammar is None for row in rows):
            return None
        if self._grammars is None:
            self._grammars = RowGrammars(self._tokenizer, vocabulary)
        return self._grammars.masks([row.follow(self._grammars) for row in rows])

    def _marks(
        self,
        reported: Sequence[int],
        forced: Sequence[bool],
        only: Collection[int],
        packed: Tensor,
        logits: Tensor,
        attention: Attention | None,
        adjustments: Adjustments | None,
    ) -> list[Mark]:
        """Makes the marks of the rows that are reported to the server."""
        wanted = {i: n for i in reported if (n := self._rows[i].spec.sampling.logprobs)}
        normaliser = [(top, log_z) for top, log_z in packed[list(wanted), -2:].tolist()] if wanted else []
        tops = top_logprobs(logits, wanted, normaliser)
        full = [i for i in reported if self._rows[i].spec.policy.telemetry == "full"]
        detailed = [self._row_numbers[i] for i in full]
        details = (
            {} if attention is None else attention_details(attention.heads, attention.by_layer, detailed)
        )
        policies = {i: self._rows[i].spec.policy for i in full}
        probable = most_probable_tokens(
            logits, unpack(packed, self._batch.candidates) if full else (), policies, adjustments
        )
        watched = [i for i in reported if self._rows[i].spec.policy.genuineness is not False]
        heads = {} if attention is None or not watched else self._heads(attention, watched)
        marks = []
        for i in reported:
            row = self._rows[i]
            detail = details.get(self._row_numbers[i])
            name, position = row.spec.key or "", row.reply.length
            seen = tops.get(i, ()), detail, probable.get(i, ()), heads.get(i)
            marks.append(Mark(name, position, forced[i], *seen, only_choice=i in only))
        return marks

    def _heads(self, attention: Attention, rows: Sequence[int]) -> dict[int, HeadEntropies]:
        """Copies what goes into some rows' windows of genuineness to the host."""
        numbers = [self._row_numbers[i] for i in rows]
        entropy = attention.heads.entropy.float().cpu().numpy()[:, numbers]
        keys = attention.heads.keys.cpu().numpy()[:, numbers].astype(np.int64)
        costs = None if attention.costs is None else attention.costs.cpu().numpy()[:, numbers]
        found = {}
        for at, i in enumerate(rows):
            paid = None
            if costs is not None and self._rows[i].surprisals is not None:
                paid = np.ascontiguousarray(costs[:, at])
            figures = np.ascontiguousarray(entropy[:, at]), np.ascontiguousarray(keys[:, at])
            found[i] = HeadEntropies(*figures, paid)
        return found

    def _leave_one(self, logits: Tensor, tokens: list[int]) -> None:
        if logits.device.type == "cpu" and logits.dtype == torch.float32:
            # numpy writes the same memory without the cost of torch's dispatcher
            host = logits.numpy()
            host[... if self._index is None else self._row_numbers] = -math.inf
            host[self._row_numbers, tokens] = 0.0
            return
        token = torch.tensor(tokens).to(logits.device, non_blocking=True)
        if self._index is None:
            logits.fill_(-math.inf).scatter_(1, token.unsqueeze(1), 0.0)
        else:
            logits.index_fill_(0, self._index, -math.inf)
            logits[self._index, token] = 0.0

    def _compose(self, rows: list[Row | None]) -> None:
        """Keeps resident parameters for these rows, rebuilt where the rows, or the profile, are others."""
        context = self._context
        if self._version != context.profile_version:
            self._version, self._composed = context.profile_version, None
            text = context.profile.clarify_text if context.profile else DEFAULT_CLARIFY_TEXT
            self._clarifying = ClarifyingText.of(text, self._tokenizer)
        if rows == self._composed:
            return
        self._composed = None
        self._rows = [row for row in rows if row is not None]
        self._row_numbers = [i for i, row in enumerate(rows) if row is not None]
        whole = len(self._rows) == len(rows)
        self._index = None if whole else torch.tensor(self._row_numbers, device=self._device)
        specs = [servable(row.spec, context.profile) for row in self._rows]
        self._batch = SampledBatch(
            [(spec.sampling, spec.policy) for spec in specs],
            context.profile,
            self._device,
            [spec.stream for spec in specs],
            context.kernels,
        )
        self._composed = rows
