"""TRITON_ATTN, a backend of vLLM, with the newest queries captured."""

from __future__ import annotations

from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadataBuilder,
)

from .gpu import QueryCapture, TableCapture


class MeasuredTritonAttention(QueryCapture, TritonAttentionImpl):
    """The attention of one layer."""


class MeasuredTritonBuilder(TableCapture, TritonAttentionMetadataBuilder):
    """The builder of a step's metadata."""


class MeasuredTritonBackend(TritonAttentionBackend):
    """TRITON_ATTN whose monitored layers are measured."""

    @staticmethod
    def get_impl_cls() -> type[TritonAttentionImpl]:
        """Returns the layer's class."""
        return MeasuredTritonAttention

    @staticmethod
    def get_builder_cls() -> type[TritonAttentionMetadataBuilder]:
        """Returns the builder's class."""
        return MeasuredTritonBuilder
