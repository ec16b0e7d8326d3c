"""FLASH_ATTN, a backend of vLLM, with the newest queries captured."""

from __future__ import annotations

from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from .gpu import QueryCapture, TableCapture


class MeasuredFlashAttention(QueryCapture, FlashAttentionImpl):
    """The attention of one layer."""


class MeasuredFlashBuilder(TableCapture, FlashAttentionMetadataBuilder):
    """The builder of a step's metadata."""


class MeasuredFlashBackend(FlashAttentionBackend):
    """FLASH_ATTN whose monitored layers are measured."""

    @staticmethod
    def get_impl_cls() -> type[FlashAttentionImpl]:
        """Returns the layer's class."""
        return MeasuredFlashAttention

    @staticmethod
    def get_builder_cls() -> type[FlashAttentionMetadataBuilder]:
        """Returns the builder's class."""
        return MeasuredFlashBuilder
