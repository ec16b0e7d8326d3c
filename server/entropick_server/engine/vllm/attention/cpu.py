"""CPU_ATTN, vLLM's attention on a CPU, with the newest queries captured.

A block of the cache holds keys as K^T [D, block] before its values where the kernels' layout is "vec"; other
layouts (vec16, amx, neon, ...) are not read: their layers are not measured.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from ..worker_context import WorkerContext
from .buffers import layer_number
from .capture import Captured

_READABLE: Final = "vec"


class MeasuredCPUAttention(CPUAttentionBackendImpl):
    """The attention of one layer. Monitored layers hand their newest queries to the worker's context."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._context = WorkerContext.of(get_current_vllm_config())
        plain = (
            self.attn_type == AttentionType.DECODER
            and self.alibi_slopes is None
            and self.sinks is None
            and not self.is_fp8_kv_cache
        )
        self._measured = bool(self._context.layers) and plain

    def measures(self, layer: Any) -> bool:
        """True if this layer is measured where it is monitored.

        The caller must wait until vLLM has allocated its cache.
        """
        return self._measured and getattr(layer, "isa", None) == _READABLE

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
        """Attends as vLLM does, and captures the tensors that the statistics need."""
        out: Tensor = super().forward(
            layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
        )
        if attn_metadata is None or not self.measures(layer):
            return out
        number = layer_number(layer.layer_name)
        if number not in self._context.layers:
            return out
        blocks, kv_heads, block, width = kv_cache.shape
        queries = query.view(-1, self.num_heads, self.head_size)
        if attn_metadata.max_query_len == 1:
            newest = queries[: attn_metadata.seq_lens.shape[0]].clone()
        else:
            newest = queries.index_select(0, attn_metadata.query_start_loc[1:].long() - 1)
        self._context.add_captured(
            number,
            Captured(
                newest,
                kv_cache.view(blocks, kv_heads, width, block),
                attn_metadata.block_table,
                attn_metadata.seq_lens,
                attn_metadata.max_seq_len,
                self.scale,
                self.sliding_window if self.sliding_window > 0 else None,
                self.logits_soft_cap,
            ),
        )
        return out


class MeasuredCPUBackend(CPUAttentionBackend):
    """CPU_ATTN whose layers are :class:`MeasuredCPUAttention`."""

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        """Returns the layer's class."""
        return MeasuredCPUAttention
