"""The mixins of the GPU backends: they keep newest queries, and refuse layers that cannot be measured.

Under FULL CUDA graphs Python runs in an attention layer at capture only. All that it does here is captured
with the rest: the rows' last positions index the queries, and the found ones are copied into a buffer that is
allocated once. The block tables of a step come from the metadata builder, which runs in Python before every
step, replayed or not; keys are read in place when the sampler runs, behind the forward on the same stream.
Nothing waits for the device, and no shape depends on data. Imports no backend: each has a module of its own.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any, Final

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.utils.torch_utils import is_quantized_kv_cache
from vllm.v1.attention.backend import AttentionType

from ..worker_context import WorkerContext
from .buffers import LayerBuffers, StepTables, layer_number

_log = logging.getLogger(__name__)
_FULL: Final = (-1, -1)


class QueryCapture:
    """A mixin of vLLM's AttentionImpl whose cache is [blocks, Hk, block, 2 D], keys first.

    Layers that are not monitored, and kinds of attention that the statistics do not describe, run as vLLM's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = get_current_vllm_config()
        self._context = WorkerContext.of(config)
        self._rows = int(config.scheduler_config.max_num_seqs)
        self._newest: Tensor | None = None
        self._measured = bool(self._context.layers) and self._describable(config.parallel_config)

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Attends as vLLM does, and copies the newest queries."""
        out: Tensor = super().forward(  # type: ignore[misc]
            layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
        )
        if self.measures(layer):
            self._copy(layer_number(layer.layer_name), query, kv_cache, attn_metadata)
        return out

    def measures(self, layer: Any) -> bool:
        """True if this layer is measured where it is monitored.

        A layer that attends in chunks is not: vLLM makes rows of a request's chunks there.
        """
        return self._measured and getattr(layer, "attention_chunk_size", None) is None

    def _copy(self, number: int, query: Tensor, kv_cache: Tensor, metadata: Any) -> None:
        if number not in self._context.layers:
            return
        mine: Any = self
        queries = query.view(-1, mine.num_heads, mine.head_size)
        if self._newest is None:
            # first at the profiling run: vLLM counts the buffer, and no graph is being captured
            self._newest = queries.new_zeros(self._rows, *queries.shape[1:])
        if metadata is None:
            return
        starts = metadata.query_start_loc
        rows = min(starts.shape[0] - 1, self._rows)
        # a graph's padded rows may begin and end at 0
        last = (starts[1 : rows + 1] - 1).clamp_(min=0)
        torch.index_select(queries, 0, last, out=self._newest[:rows])
        window = mine.sliding_window
        self._context.set_buffers(
            number,
            LayerBuffers(
                self._newest,
                weakref.ref(kv_cache),
                mine.scale,
                None if window == _FULL else window[0] + 1,
                mine.logits_soft_cap or 0.0,
            ),
        )

    def _describable(self, parallel: Any) -> bool:
        """True if a head's weights are the softmax of its scores over keys that this worker has."""
        mine: Any = self
        missing = [
            name
            for name, there in (
                ("attention other than a decoder's", mine.attn_type != AttentionType.DECODER),
                ("ALiBi", mine.alibi_slopes is not None),
                ("attention sinks", mine.sinks is not None),
                ("a quantised cache", is_quantized_kv_cache(mine.kv_cache_dtype)),
                ("chunked look-back", getattr(mine, "chunk_lookback", -1) != -1),
                ("context parallelism", parallel.decode_context_parallel_size > 1),
                ("context parallelism", getattr(parallel, "prefill_context_parallel_size", 1) > 1),
                ("micro-batches", parallel.use_ubatching),
            )
            if there
        ]
        if missing:
            _log.warning("attention is not measured with %s", missing[0])
        return not missing


class TableCapture:
    """A mixin of vLLM's metadata builders that hands a step's block tables to the worker's context."""

    layer_names: list[str]
    vllm_config: Any

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """Builds the metadata as vLLM does, and captures the tables."""
        common = common_attn_metadata
        self._capture(common.block_table_tensor, common.seq_lens, common.max_seq_len)
        return super().build(common_prefix_len, common, fast_build)  # type: ignore[misc]

    def update_block_table(self, metadata: Any, blk_table: Tensor, slot_mapping: Tensor) -> Any:
        """Updates the metadata as vLLM does, and captures the tables.

        vLLM calls it in place of :meth:`build` where another group of layers had the same step.
        """
        self._capture(blk_table, metadata.seq_lens, metadata.max_seq_len)
        return super().update_block_table(metadata, blk_table, slot_mapping)  # type: ignore[misc]

    def _capture(self, blocks: Tensor, lengths: Tensor, longest: int) -> None:
        numbers = [layer_number(name) for name in self.layer_names]
        WorkerContext.of(self.vllm_config).set_tables(numbers, StepTables(blocks, lengths, int(longest)))
