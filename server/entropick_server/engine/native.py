"""Decoders of the Llama family on the CPU in float32: a step is one native call.

The weights are packed for it and taken from the transformers model, which is empty afterwards: a large model
is not kept twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from entropick_kernels import decoder
from entropick_kernels.decoder import DecoderShape, DecoderStep, LayerWeights, PrefillChunk

from .attention import AttentionContext
from .base import ModelLoadError
from .fused import FAMILY, FusedDecoder, rotary_tables, window_of
from .types import DecoderChoice, EngineOptions


class NativeLlama:
    """Callable like :class:`~.fused.FusedDecoder`; it measures too, into ``context.measured``."""

    def __init__(self, model: PreTrainedModel, max_len: int) -> None:
        """Takes the weights out of ``model``; positions up to ``max_len`` can be served."""
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
        self._run = decoder.NativeDecoder(
            shape, _layers(model), embed, body.norm.weight, None if tied else head, cos, sin
        )
        _empty(body.embed_tokens, model.lm_head)

    @staticmethod
    def serves(model: PreTrainedModel) -> bool:
        """Whether this can run a model: the fused family, float32 on the CPU, and numba is installed."""
        if not decoder.available() or not FusedDecoder.serves(model):
            return False
        plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
        return plain and rotary_tables(model, 1)[0].shape[-1] == model.model.layers[0].self_attn.head_dim

    def __call__(self, ids: Tensor, positions: Tensor, context: AttentionContext) -> Tensor | None:
        """ids, positions [T] -> logits [B, V] of the last ``context.rows`` tokens, None for no rows."""

        step = DecoderStep(
            ids=ids,
            positions=positions,
            cache_index=context.slots,
            keys=context.keys,
            values=context.values,
            page_table=context.page_table,
            lengths=context.lengths,
            rows=context.rows,
            chunks=[PrefillChunk(piece.count, piece.pages, piece.length) for piece in context.pieces],
            monitored=context.monitored,
        )
        context.measured = self._run(step)
        return None if context.measured is None else context.measured.logits


def check_batch_invariant(model: PreTrainedModel, options: EngineOptions) -> None:
    """Raise ModelLoadError where a request's bits would depend on what else is in its batch.

    The native decoder's never do; libraries choose their kernels by the shape of a batch.
    """
    parameter = next(model.parameters())
    dtype, device = str(parameter.dtype).removeprefix("torch."), parameter.device.type
    kind = model.config.model_type
    problem = None
    if not decoder.available():
        problem = "numba is not installed; install it"
    elif kind not in FAMILY:
        problem = f"the architecture is {kind!r}; serve one of {', '.join(sorted(FAMILY))}"
    elif device != "cpu":
        problem = f"the model is on {device}; use --device cpu"
    elif dtype != "float32":
        problem = f"the weights are {dtype}; use --dtype float32"
    elif options.kernels not in ("auto", "numba"):
        problem = f"kernels are {options.kernels!r}; use --kernels auto or numba"
    elif options.decoder != "auto":
        problem = f"the decoder is {options.decoder!r}; leave it at auto"
    elif not NativeLlama.serves(model):
        problem = "the model differs from its family in a part that the native decoder does not know"
    if problem is not None:
        raise ModelLoadError(
            f"--batch-invariant needs the native decoder ({', '.join(sorted(FAMILY))}; float32; CPU), but "
            f"{problem}"
        )


def short_way(
    model: PreTrainedModel, max_len: int, choice: DecoderChoice
) -> NativeLlama | FusedDecoder | None:
    """The fastest decoder for a model that ``choice`` allows; None for transformers' modules."""
    if choice == "auto" and NativeLlama.serves(model):
        return NativeLlama(model, max_len)
    return FusedDecoder(model, max_len) if choice != "modules" and FusedDecoder.serves(model) else None


def _layers(model: PreTrainedModel) -> Iterator[LayerWeights]:
    """The layers of a model one by one, each taken out of it when the next is asked for."""
    for layer in model.model.layers:
        attention: Any = layer.self_attn
        mlp: Any = layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        biases: list[Tensor] = [p.bias for p in parts if p.bias is not None]
        weights = LayerWeights(
            norm_in=layer.input_layernorm.weight,
            w_qkv=torch.cat([p.weight for p in parts]),
            b_qkv=torch.cat(biases) if biases else None,
            norm_q=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            norm_k=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            w_out=attention.o_proj.weight,
            b_out=attention.o_proj.bias,
            norm_post=layer.post_attention_layernorm.weight,
            w_gate=mlp.gate_proj.weight,
            b_gate=mlp.gate_proj.bias,
            w_up=mlp.up_proj.weight,
            b_up=mlp.up_proj.bias,
            w_down=mlp.down_proj.weight,
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
