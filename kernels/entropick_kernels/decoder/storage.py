"""Weights in fewer bytes: the same numbers where they allow it, or numbers of 16, 8 or 4 bits near them.

All of it is elementwise arithmetic in float32 in a fixed order, so that a matrix gets the same bits on every
machine.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from .formats import GROUP, INT4, INT8
from .weights import GroupedWeight, Weight

_SHRUNK: Final = (1.0, 0.93, 0.86, 0.79)
"""shares of a group's range that 4 bits are tried on: less range is finer steps, and cuts off the extremes"""


def exact(matrix: Tensor) -> Weight:
    """Returns a float32 matrix in as few bytes as hold its numbers: bfloat16, float16 or as it is."""
    if not bool((matrix.view(torch.int32) & 0xFFFF).any()):
        return matrix.bfloat16()
    half = matrix.half()
    return half if torch.equal(half.float(), matrix) else matrix


def in_float16(matrix: Tensor) -> Tensor:
    """Returns a float32 matrix as float16. Raises ValueError for a number that float16 does not reach."""
    if float(matrix.abs().max()) > torch.finfo(torch.float16).max:
        raise ValueError("a weight is too large for float16")
    return matrix.half()


def in_int8(matrix: Tensor) -> Weight:
    """Returns a float32 matrix in 8 bits: steps of a 127th of the largest number of each group.

    Where the inputs are not whole groups of 32, it is bfloat16.
    """
    if matrix.shape[1] % GROUP:
        return matrix.bfloat16()
    groups = matrix.view(matrix.shape[0], -1, GROUP)
    scales = _not_below(groups.abs().amax(-1) / 127)
    numbers = _steps(groups, scales, None).clamp_(-127, 127)
    return GroupedWeight(INT8, numbers.to(torch.int8).view(matrix.shape), scales)


def in_int4(matrix: Tensor) -> Weight:
    """Returns a float32 matrix in 4 bits: 16 steps from a minimum of each group.

    Of some ranges within a group's own, it takes the one with the least squared error. Where the inputs are
    not whole groups of 32, the matrix is bfloat16.
    """
    if matrix.shape[1] % GROUP:
        return matrix.bfloat16()
    groups = matrix.view(matrix.shape[0], -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for share in _SHRUNK:
        cut = (high - low) * ((1.0 - share) / 2)
        scales, minima = ((high - low) * (share / 15)).half(), (low + cut).half()
        numbers = _steps(groups, scales, minima).clamp_(0, 15)
        errors = _sum(
            (numbers * scales.float().unsqueeze(-1) + minima.float().unsqueeze(-1) - groups).square_()
        )
        if best is None:
            best = errors, numbers, scales, minima
            continue
        better = errors < best[0]
        for kept, new in zip(best, (errors, numbers, scales, minima), strict=True):
            kept[better] = new[better]
    _, numbers, scales, minima = best or (low, groups, low, low)
    return GroupedWeight(INT4, numbers.to(torch.uint8).view(matrix.shape), scales, minima)


def _steps(groups: Tensor, scales: Tensor, minima: Tensor | None) -> Tensor:
    """Returns how many steps from the minimum each number is, to the nearest; 0 where a step is 0."""
    scale = scales.float()
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale).unsqueeze(-1)
    above = groups if minima is None else groups - minima.float().unsqueeze(-1)
    return (above * inverse).round_()


def _not_below(values: Tensor) -> Tensor:
    """Returns positive numbers as float16, rounded up."""
    half = values.half()
    following = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.float() < values, following, half)


def _sum(groups: Tensor) -> Tensor:
    """Adds up each group, in halves: the order is the same on every processor."""
    while groups.shape[-1] > 1:
        half = groups.shape[-1] // 2
        groups = groups[..., :half] + groups[..., half:]
    return groups.squeeze(-1)
