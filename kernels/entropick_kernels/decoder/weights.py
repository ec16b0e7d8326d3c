"""The sizes and the weights of a decoder of the Llama family, as plain tensors or in groups with scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .formats import BFLOAT16, FLOAT16, FLOAT32, LANES, WeightFormat

_OF_DTYPE = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


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
class GroupedWeight:
    """A matrix [out, in] whose numbers share a scale, and a minimum, by output and group of inputs.

    ``form``: a grouped form of :mod:`.formats`, which says what a number stands for. ``numbers`` [out, in]
    int8, or uint8 in a form of 4 bits; ``scales`` and ``minima`` float16, or float32 in a wide form, [out,
    groups], minima None in a form without.
    """

    form: WeightFormat
    numbers: Tensor
    scales: Tensor
    minima: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not fit."""
        out, inputs = self.numbers.shape
        kind = torch.int8 if self.form.bits == 8 else torch.uint8
        parts = [self.scales] if self.minima is None else [self.scales, self.minima]
        group, of_scale = self.form.group, torch.float32 if self.form.wide else torch.float16
        shapes = all(tuple(p.shape) == (out, inputs // group) and p.dtype == of_scale for p in parts)
        fits = self.form.grouped and not inputs % group and self.form.minimum == (self.minima is not None)
        if not (shapes and fits and self.numbers.dtype == kind):
            raise ValueError(f"{self.form.name}: the parts do not make a matrix {[out, inputs]}")

    @property
    def shape(self) -> torch.Size:
        """Returns the numbers of outputs and of inputs."""
        return self.numbers.shape

    def rows(self, order: Tensor) -> GroupedWeight:
        """Returns the matrix with its outputs in another order."""
        minima = None if self.minima is None else self.minima[order]
        return GroupedWeight(self.form, self.numbers[order], self.scales[order], minima)

    def floats(self) -> Tensor:
        """Computes the float32 matrix that this one stands for."""
        numbers = self.numbers.view(self.shape[0], -1, self.form.group).float() - self.form.offset
        values = numbers * self.scales.float().unsqueeze(-1)
        if self.minima is not None:
            values += self.minima.float().unsqueeze(-1)
        return values.view(self.shape)


Weight = Tensor | GroupedWeight
"""a matrix [out, in]: float32, bfloat16 or float16, or in groups"""


def form_of(weight: Weight) -> WeightFormat:
    """Returns the form of a matrix. Raises ValueError for a tensor of another dtype."""
    if isinstance(weight, GroupedWeight):
        return weight.form
    if weight.dtype not in _OF_DTYPE:
        raise ValueError(f"expected float32, bfloat16 or float16, got {weight.dtype}")
    return _OF_DTYPE[weight.dtype]


def as_floats(weight: Weight) -> Tensor:
    """Returns a matrix of any form as float32."""
    return weight.floats() if isinstance(weight, GroupedWeight) else weight.float()


def stacked(weights: Sequence[Weight]) -> list[Weight]:
    """Joins matrices of equal form into a single matrix: it has the outputs of each, in their order.

    Matrices of different forms stay apart where the outputs of all but the last fill panels; else they become
    a matrix of float32.
    """
    forms = {form_of(weight) for weight in weights}
    if len(forms) > 1 and all(weight.shape[0] % LANES == 0 for weight in weights[:-1]):
        return list(weights)
    grouped = [weight for weight in weights if isinstance(weight, GroupedWeight)]
    if len(forms) > 1 or not grouped:
        same = len(forms) == 1
        return [torch.cat([w if same and isinstance(w, Tensor) else as_floats(w) for w in weights])]
    minima = [weight.minima for weight in grouped if weight.minima is not None]
    return [
        GroupedWeight(
            grouped[0].form,
            torch.cat([weight.numbers for weight in grouped]),
            torch.cat([weight.scales for weight in grouped]),
            torch.cat(minima) if minima else None,
        )
    ]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer; matrices [out, in] as nn.Linear keeps them, biases [out] or None.

    ``w_qkv``: the outputs of q, then of k, then of v: one matrix, or one for each. ``norm_q``, ``norm_k``
    [width] or None. ``window``: the last so many keys, None for all. Biases and norms are float32.
    """

    norm_in: Tensor
    w_qkv: Weight | Sequence[Weight]
    b_qkv: Tensor | None
    norm_q: Tensor | None
    norm_k: Tensor | None
    w_out: Weight
    b_out: Tensor | None
    norm_post: Tensor
    w_gate: Weight
    b_gate: Tensor | None
    w_up: Weight
    b_up: Tensor | None
    w_down: Weight
    b_down: Tensor | None
    scale: float
    window: int | None
