"""vLLM's TRITON_ATTN with the newest queries kept."""

from __future__ import annotations

from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadataBuilder,
)

from .gpu import KeepsQueries, TellsTables


class MeasuredTritonAttention(KeepsQueries, TritonAttentionImpl):
    """One layer's attention."""


class MeasuredTritonBuilder(TellsTables, TritonAttentionMetadataBuilder):
    """A step's metadata."""


class MeasuredTritonBackend(TritonAttentionBackend):
    """TRITON_ATTN whose monitored layers are measured."""

    @staticmethod
    def get_impl_cls() -> type[TritonAttentionImpl]:
        """The layer's class."""
        return MeasuredTritonAttention

    @staticmethod
    def get_builder_cls() -> type[TritonAttentionMetadataBuilder]:
        """The metadata's class."""
        return MeasuredTritonBuilder
