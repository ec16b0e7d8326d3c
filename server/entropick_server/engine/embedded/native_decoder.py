"""The decoder of the Llama family on the CPU in float32: one native call a step, which measures too.

The weights are packed for it, in few bytes where that is asked for, and taken from the transformers model,
which is empty afterwards: a large model is not kept twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from entropick_kernels import decoder
from entropick_kernels.decoder import DecoderShape, LayerWeights, NativeDecoder, Weight

from .llama_family import in_family, rotary_tables, window_of
from .weight_storage import VOCABULARY, Keep


def pack_decoder(model: PreTrainedModel, max_len: int, keep: Keep) -> NativeDecoder:
    """Takes the weights out of ``model`` and packs them; positions up to ``max_len`` can be served.

    ``keep`` says in which form each matrix is kept.
    """
    config, body = model.config, model.model
    embed: Tensor = body.embed_tokens.weight
    shape = DecoderShape(
        hidden=int(config.hidden_size),
        heads=int(config.num_attention_heads),
        kv_heads=int(config.num_key_value_heads),
        width=int(body.layers[0].self_attn.head_dim),
        ffn=int(config.intermediate_size),
        vocab=int(embed.shape[0]),
        eps=float(config.rms_norm_eps),
    )
    cos, sin = (table[:, : shape.width // 2].contiguous() for table in rotary_tables(model, max_len))
    head: Tensor = model.lm_head.weight
    tied = head.data_ptr() == embed.data_ptr()
    of_embed, of_head = VOCABULARY
    packed = decoder.NativeDecoder(
        shape,
        _layers(model, keep),
        keep(of_embed, embed),
        body.norm.weight,
        None if tied else keep(of_head, head),
        cos,
        sin,
    )
    _empty(body.embed_tokens, model.lm_head)
    return packed


def serves(model: PreTrainedModel) -> bool:
    """Tells whether the native decoder can run a model: of the family, in float32 on the CPU, with numba."""
    if not decoder.available() or not in_family(model):
        return False
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    return plain and rotary_tables(model, 1)[0].shape[-1] == model.model.layers[0].self_attn.head_dim


def _layers(model: PreTrainedModel, keep: Keep) -> Iterator[LayerWeights]:
    """Yields the layers of a model one by one, each taken out of it when the next is asked for."""
    for number, layer in enumerate(model.model.layers):
        attention: Any = layer.self_attn
        mlp: Any = layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)

        def kept(name: str, number: int = number, layer: Any = layer) -> Weight:
            matrix: Tensor = layer.get_submodule(name).weight
            return keep(f"model.layers.{number}.{name}.weight", matrix)

        biases: list[Tensor] = [p.bias for p in parts if p.bias is not None]
        weights = LayerWeights(
            norm_in=layer.input_layernorm.weight,
            w_qkv=[kept(f"self_attn.{name}_proj") for name in "qkv"],
            b_qkv=torch.cat(biases) if biases else None,
            norm_q=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            norm_k=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            w_out=kept("self_attn.o_proj"),
            b_out=attention.o_proj.bias,
            norm_post=layer.post_attention_layernorm.weight,
            w_gate=kept("mlp.gate_proj"),
            b_gate=mlp.gate_proj.bias,
            w_up=kept("mlp.up_proj"),
            b_up=mlp.up_proj.bias,
            w_down=kept("mlp.down_proj"),
            b_down=mlp.down_proj.bias,
            scale=float(attention.scaling),
            window=window_of(layer, model.config),
        )
        yield weights
        del weights
        _empty(*parts, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _empty(*modules: Any) -> None:
    for module in modules:
        module.weight = nn.Parameter(torch.empty(0), requires_grad=False)
