"""The architectures that differ little from Llama: their recognition, and the parts that decoders share."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FAMILY: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def in_family(model: PreTrainedModel) -> bool:
    """Tells whether a model is one of the family, without any part that its decoders do not know."""
    config = model.config
    attention = model.model.layers[0].self_attn if config.model_type in FAMILY else None
    return (
        attention is not None
        and config.hidden_act == "silu"
        and model.lm_head.bias is None
        and getattr(config, "pretraining_tp", 1) == 1
        and isinstance(attention.q_proj, nn.Linear)
    )


def rotary_tables(model: PreTrainedModel, max_len: int) -> tuple[Tensor, Tensor]:
    """Computes the cosines and sines of a model's rotary embedding, each [max_len, head width]."""
    embed: Tensor = model.model.embed_tokens.weight
    positions = torch.arange(max_len, device=embed.device).unsqueeze(0)
    cos, sin = model.model.rotary_emb(embed[:1].unsqueeze(0), positions)
    return cos[0], sin[0]


def window_of(layer: Any, config: Any) -> int | None:
    """Counts the last keys that a layer attends to. Returns None for all keys."""
    window: int | None = (
        config.sliding_window
        if config.model_type == "mistral"
        else getattr(layer.self_attn, "sliding_window", None)
    )
    return window
