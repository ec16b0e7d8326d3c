"""The layout in which a product reads its weights: panels of 16 outputs, one input behind the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import LANES, WeightFormat
from .weights import GroupedWeight, Weight, as_floats, form_of


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as panels [count, ..], contiguous, of one form."""

    form: WeightFormat
    panels: Tensor
    inputs: int

    @property
    def count(self) -> int:
        """Counts the panels."""
        return self.panels.shape[0]


def pack(weight: Weight) -> Packed:
    """Returns a matrix [out, in] as ceil(out / 16) panels; missing outputs are zeros.

    Panels of a tensor are [in, 16] of its dtype. Those of a matrix in groups are bytes: of each group 16
    scales, 16 minima where there are any, then 16 numbers an input; two inputs of 4 bits share a byte, the
    first its lower half.
    """
    panels = _pack_groups(weight) if isinstance(weight, GroupedWeight) else _in_panels(weight)
    return Packed(form_of(weight), panels.contiguous(), weight.shape[1])


def pack_pair(first: Weight, second: Weight) -> Packed:
    """Returns two matrices of one shape as panels in turns; as float32 where their forms differ.

    Panels 2i and 2i + 1 hold the same outputs of both.
    """
    if form_of(first) != form_of(second):
        first, second = as_floats(first), as_floats(second)
    one, two = pack(first), pack(second)
    return Packed(one.form, torch.stack((one.panels, two.panels), 1).flatten(0, 1), one.inputs)


def unpack(panels: Tensor, out: int) -> Tensor:
    """Returns the matrix [out, in] whose panels [count, in, 16] are given."""
    return panels.transpose(1, 2).reshape(-1, panels.shape[1])[:out]


def pack_bias(bias: Tensor | None, other: Tensor | None = None) -> Any:
    """Returns a bias as long as the packed outputs; two biases in turns of panels, as :func:`pack_pair`."""
    if bias is None:
        return None
    parts = [F.pad(b, (0, -b.shape[0] % LANES)).view(-1, LANES) for b in (bias, other) if b is not None]
    return torch.stack(parts, 1).flatten().contiguous()


def _in_panels(matrix: Tensor) -> Tensor:
    """Returns the columns of a matrix [out, n] as [panels, n, 16]."""
    out, columns = matrix.shape
    short = -out % LANES
    padded = F.pad(matrix, (0, 0, 0, short)) if short else matrix
    return padded.view(-1, LANES, columns).transpose(1, 2)


def _pack_groups(weight: GroupedWeight) -> Tensor:
    """Returns the panels of a matrix in groups, bytes [count, bytes of a panel]."""
    group = weight.form.group
    groups = weight.shape[1] // group
    numbers = _in_panels(weight.numbers).reshape(-1, groups, group, LANES).view(torch.uint8)
    if weight.form.bits == 4:
        numbers = numbers[:, :, 0::2] | numbers[:, :, 1::2] << 4
    heads = [p for p in (weight.scales, weight.minima) if p is not None]
    parts = [_in_panels(p).contiguous().view(torch.uint8) for p in heads]
    return torch.cat([*parts, numbers.flatten(2)], -1).flatten(1)
