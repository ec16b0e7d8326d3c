"""The forward pass of training: a Llama whose last block runs on the positions that carry loss alone."""

from typing import Any

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from entropick_pico.batches import Batch


def supervised_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Returns the logits at the positions that carry loss, ``[positions, vocabulary]``.

    They equal those of the whole model. All blocks but the last run as they are; of the last block only the
    attention needs every position, so its other parts, the last norm and the head run on these positions.
    """
    llama = model.model
    x = llama.embed_tokens(batch.tokens)
    places = torch.arange(x.shape[1], device=x.device)[None]
    rotary = llama.rotary_emb(x, position_ids=places)
    for block in llama.layers[:-1]:
        x = block(x, attention_mask=None, position_ids=places, position_embeddings=rotary, use_cache=False)
    block = llama.layers[-1]
    mixed = _attention(block.self_attn, block.input_layernorm(x), rotary)
    at = batch.rows, batch.columns
    x = x[at] + block.self_attn.o_proj(mixed[at])
    x = x + block.mlp(block.post_attention_layernorm(x))
    logits: torch.Tensor = model.lm_head(llama.norm(x))
    return logits


def _attention(attention: Any, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the heads' causal mixtures of the values, ``[rows, positions, heads * width]``."""
    shape = (*x.shape[:2], -1, attention.head_dim)
    q, k, v = (
        project(x).view(shape).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2)
