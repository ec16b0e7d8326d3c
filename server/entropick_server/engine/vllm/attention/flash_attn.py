"""vLLM's FLASH_ATTN with the newest queries kept."""

from __future__ import annotations

from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from .gpu import KeepsQueries, TellsTables


class MeasuredFlashAttention(KeepsQueries, FlashAttentionImpl):
    """One layer's attention."""


class MeasuredFlashBuilder(TellsTables, FlashAttentionMetadataBuilder):
    """A step's metadata."""


class MeasuredFlashBackend(FlashAttentionBackend):
    """FLASH_ATTN whose monitored layers are measured."""

    @staticmethod
    def get_impl_cls() -> type[FlashAttentionImpl]:
        """The layer's class."""
        return MeasuredFlashAttention

    @staticmethod
    def get_builder_cls() -> type[FlashAttentionMetadataBuilder]:
        """The metadata's class."""
        return MeasuredFlashBuilder
