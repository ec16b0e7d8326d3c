"""The sizes and the weights of a decoder of the Llama family, as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes that all layers share; ``width`` is a head's, ``ffn`` that of the gate."""

    hidden: int
    heads: int
    kv_heads: int
    width: int
    ffn: int
    vocab: int
    eps: float

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that make no decoder."""
        if min(self.hidden, self.kv_heads, self.ffn, self.vocab) < 1:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if self.heads % self.kv_heads or self.width < 2 or self.width % 2:
            raise ValueError(
                f"heads must share evenly and have an even width: {self.heads}, {self.kv_heads}, {self.width}"
            )


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer; matrices [out, in] as nn.Linear keeps them, biases [out] or None.

    ``w_qkv``: the outputs of q, then of k, then of v. ``norm_q``, ``norm_k`` [width] or None. ``window``: the
    last so many keys, None for all.
    """

    norm_in: Tensor
    w_qkv: Tensor
    b_qkv: Tensor | None
    norm_q: Tensor | None
    norm_k: Tensor | None
    w_out: Tensor
    b_out: Tensor | None
    norm_post: Tensor
    w_gate: Tensor
    b_gate: Tensor | None
    w_up: Tensor
    b_up: Tensor | None
    w_down: Tensor
    b_down: Tensor | None
    scale: float
    window: int | None
