"""A plugin of vLLM, for tests: CPU_ATTN, the only backend that it knows on a CPU, becomes another one."""

import os
from typing import Any

import torch


def choose_attention() -> None:
    """INTERPRETED_ATTENTION names a backend of ours. vLLM calls this in every process, before it builds."""
    from entropick_server.engine.vllm.plugin import BACKENDS

    if name := os.environ.get("INTERPRETED_ATTENTION"):
        BACKENDS["CPU_ATTN"] = BACKENDS[name]
        # what vLLM chooses tile sizes by
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        if name == "FLASH_ATTN":
            stand_in_for_flash_attention()


def stand_in_for_flash_attention() -> None:
    """FlashAttention's library runs on GPUs alone: vLLM's Triton kernels compute what it would."""
    from vllm.v1.attention.backends import fa_utils
    from vllm.v1.attention.ops.triton_reshape_and_cache_flash import triton_reshape_and_cache_flash
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    fa_utils.get_flash_attn_version = lambda *_, **__: 2
    from vllm.v1.attention.backends import flash_attn

    def attend(*, softmax_scale: float, softcap: float, q: Any, **given: Any) -> None:
        taken = ("k", "v", "out", "cu_seqlens_q", "max_seqlen_q", "seqused_k", "max_seqlen_k", "causal",
                 "alibi_slopes", "window_size", "block_table")  # fmt: skip
        unified_attention(
            q=q, softmax_scale=softmax_scale, softcap=softcap, q_descale=None, k_descale=None, v_descale=None,
            **{name: given[name] for name in taken},
        )  # fmt: skip

    flash_attn.flash_attn_varlen_func = attend
    flash_attn.reshape_and_cache_flash = triton_reshape_and_cache_flash
    flash_attn.flash_attn_supports_quant_query_input = lambda: False
