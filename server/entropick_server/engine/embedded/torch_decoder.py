"""The decoder of the Llama family in few torch operations, from the weights of the transformers model.

transformers' modules cost more than the arithmetic when a step has few rows. This is the same computation in
a third of the operations: one product for q, k and v, one for gate and up, the residual added by the product.
The tests hold its logits to those of eager transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from entropick_kernels.attention_stats import Kernels
from entropick_kernels.decoder import Decoded, DecoderStep, LayerLens, PromptSurprisals

from .attention import LayerFigures, attend
from .forward import decoded, rank_prompt
from .llama_family import rotary_tables, window_of

_WANTED_AT_ONCE = 64
"""prompt tokens whose logits are computed at a time, for the surprisals that follow them"""
_LOG2_E = 1.0 / math.log(2.0)


class _Norm:
    """RMS norm over the last axis.

    On the CPU torch makes it of seven passes; x * w * sqrt(n) / sqrt(|x|^2 + n * eps) is the same in four.
    """

    __slots__ = ("_eps", "_floor", "_scaled", "_weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps
        short = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._scaled = weight * math.sqrt(weight.numel()) if short else None
        self._floor = torch.tensor(math.sqrt(weight.numel() * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        if self._scaled is None:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        length = torch.linalg.vector_norm(x, 2, -1, keepdim=True).hypot_(self._floor)
        return torch.mul(x, self._scaled).div_(length)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer; ``w_*`` [in, out] views, ``b_*`` None or [out]."""

    norm_in: _Norm
    w_qkv: Tensor
    b_qkv: Tensor | None
    norm_q: _Norm | None
    norm_k: _Norm | None
    w_out: Tensor
    b_out: Tensor | None
    norm_post: _Norm
    w_gate_up: Tensor
    b_gate_up: Tensor | None
    w_down: Tensor
    b_down: Tensor | None
    scale: float
    window: int | None


class TorchDecoder:
    """A model of the family on joined weights, on any device."""

    def __init__(self, model: PreTrainedModel, max_len: int, kernels: Kernels | None = None) -> None:
        """Joins the weights of ``model`` in place: it keeps working, on views of the joined weights.

        ``kernels``: the kernels that attend and measure, None for the fastest.
        """
        self._implementation = kernels
        config, body = model.config, model.model
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._width = int(body.layers[0].self_attn.head_dim)
        self._embed: Tensor = body.embed_tokens.weight
        self._norm = _Norm(body.norm.weight, config.rms_norm_eps)
        self._head: Tensor = model.lm_head.weight
        self._layers = [_layer(layer, config) for layer in body.layers]
        cos, sin = rotary_tables(model, max_len)
        # rotate_half is a roll by half the width whose first half changes sign: the sign goes into the sine
        half = self._width // 2
        self._cos: Tensor = cos.unsqueeze(1)
        self._sin: Tensor = torch.cat((-sin[:, :half], sin[:, half:]), -1).unsqueeze(1)

    def __call__(self, step: DecoderStep) -> Decoded | None:
        """Runs the model. Returns logits and attention figures of the rows, None for a step without rows."""
        heads, kv_heads, width = self._heads, self._kv_heads, self._width
        split = heads + kv_heads
        cos, sin = self._cos[step.positions], self._sin[step.positions]
        x = self._embed[step.ids]
        figures: list[LayerFigures] = []
        tokens = x.shape[0]
        for index, layer in enumerate(self._layers):
            y = layer.norm_in(x)
            qkv = _product(y, layer.w_qkv, layer.b_qkv).view(tokens, split + kv_heads, width)
            qk = qkv[:, :split]
            if layer.norm_q is not None and layer.norm_k is not None:
                q = layer.norm_q(qk[:, :heads])
                k = layer.norm_k(qk[:, heads:])
                qk = torch.cat((q, k), 1)
            qk = torch.addcmul(qk * cos, qk.roll(width // 2, -1), sin)
            out, of_layer = attend(
                index,
                qk[:, :heads],
                qk[:, heads:],
                qkv[:, split:],
                step,
                layer.scale,
                layer.window,
                None,
                self._implementation,
            )
            if of_layer is not None:
                figures.append(of_layer)
            x = _add_product(x, out.reshape(tokens, -1), layer.w_out, layer.b_out)
            y = layer.norm_post(x)
            gate, up = _product(y, layer.w_gate_up, layer.b_gate_up).chunk(2, -1)
            x = _add_product(x, F.silu(gate).mul_(up), layer.w_down, layer.b_down)
            if step.lens is not None and index in step.lens.layers:
                self._look(x[-step.rows :], step.lens, index)
        if step.prompt is not None:
            self._next_surprisals(x, step.prompt)
        if not step.rows:
            return None
        last = self._norm(x[-step.rows :])
        return decoded(F.linear(last, self._head), figures)

    def _look(self, x: Tensor, lens: LayerLens, layer: int) -> None:
        """Fills in the entropies of a layer's output; x [B, hidden] of the rows."""
        logprobs = F.linear(self._norm(x[lens.rows]), self._head).float().log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1) * _LOG2_E
        lens.entropy[lens.layers.index(layer)] = entropy

    def _next_surprisals(self, x: Tensor, prompt: PromptSurprisals) -> None:
        """Fills in the surprisals that follow some tokens, a few at a time; x [T, hidden] of all tokens."""
        for lo in range(0, len(prompt.tokens), _WANTED_AT_ONCE):
            some = slice(lo, lo + _WANTED_AT_ONCE)
            logits = F.linear(self._norm(x[prompt.tokens[some]]), self._head).float()
            rank_prompt(logits, prompt, some)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _add_product(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    total = torch.addmm(residual, x, weight)
    return total if bias is None else total.add_(bias)


def _layer(layer: Any, config: Any) -> _Layer:
    attention, mlp, eps = layer.self_attn, layer.mlp, float(config.rms_norm_eps)
    w_qkv, b_qkv = _join(attention.q_proj, attention.k_proj, attention.v_proj)
    w_gate_up, b_gate_up = _join(mlp.gate_proj, mlp.up_proj)
    return _Layer(
        norm_in=_Norm(layer.input_layernorm.weight, eps),
        w_qkv=w_qkv,
        b_qkv=b_qkv,
        norm_q=_Norm(attention.q_norm.weight, eps) if hasattr(attention, "q_norm") else None,
        norm_k=_Norm(attention.k_norm.weight, eps) if hasattr(attention, "k_norm") else None,
        w_out=attention.o_proj.weight.t(),
        b_out=attention.o_proj.bias,
        norm_post=_Norm(layer.post_attention_layernorm.weight, eps),
        w_gate_up=w_gate_up,
        b_gate_up=b_gate_up,
        w_down=mlp.down_proj.weight.t(),
        b_down=mlp.down_proj.bias,
        scale=float(attention.scaling),
        window=window_of(layer, config),
    )


def _join(*parts: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Joins the weights of several layers into one [in, sum of out]; the layers keep views of it."""
    weight = torch.cat([p.weight for p in parts])
    at = 0
    for part in parts:
        size = part.weight.shape[0]
        part.weight = nn.Parameter(weight[at : at + size], requires_grad=False)
        at += size
    biases: list[Tensor] = [p.bias for p in parts if p.bias is not None]
    return weight.t(), torch.cat(biases) if biases else None
