"""Products of a few rows with packed weights, and how weights are packed."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .._native import native
from ._tile import LANES, PANEL_ROW, panel_tile

_MOST_ROWS: Final = 6
# more panels at a time for few rows: a lone panel would leave the processor waiting
_ONE_ROW: Final = panel_tile((1,), 4)
_FEW_ROWS: Final = panel_tile((2, 3), 2)
_ANY_ROWS: Final = panel_tile(range(1, _MOST_ROWS + 1), 1)
_ROWS_AT_ONCE: Final = 48
"""rows whose inputs stay in the cache while they meet several panels"""
_CACHED: Final = 1 << 18
"""bytes of weights that stay in the cache while they meet further rows"""


def pack(weight: Tensor) -> Tensor:
    """Returns a matrix [out, in] as panels [ceil(out / 16), in, 16]; missing outputs are zeros."""
    out, inputs = weight.shape
    short = -out % LANES
    padded = F.pad(weight, (0, 0, 0, short)) if short else weight
    return padded.view(-1, LANES, inputs).transpose(1, 2).contiguous()


def pack_pair(first: Tensor, second: Tensor) -> Tensor:
    """Returns two matrices of one shape as panels in turns.

    Panels 2i and 2i + 1 hold the same outputs of both.
    """
    return torch.stack((pack(first), pack(second)), 1).flatten(0, 1)


def unpack(panels: Tensor, out: int) -> Tensor:
    """Returns the matrix [out, in] that :func:`pack` was given."""
    return panels.transpose(1, 2).reshape(-1, panels.shape[1])[:out]


@native()
def panels_at_once(rows: int, inputs: int, panels: int, threads: int) -> int:
    """Returns an even number of panels that one thread should take at a time."""
    share = panels // (4 * threads)
    if rows > _MOST_ROWS // 2:
        share = min(share, _CACHED // (inputs * PANEL_ROW))
    return min(max(share // 2 * 2, 2), 8)


@native()
def product(
    x: int, rows: int, x_stride: int, weights: int, inputs: int, first: int, last: int, out: int,
    out_stride: int, add: int,
) -> None:  # fmt: skip
    """Computes out[:, 16 first : 16 last] = x @ panels first..last, added to ``out`` where ``add`` is 1.

    x [rows, inputs], out [rows, ..], weights as :func:`pack` makes them: addresses; strides in floats.
    """
    size = inputs * PANEL_ROW
    begin = first
    if rows <= _MOST_ROWS // 2:
        wide = 4 if rows == 1 else 2
        while begin + wide <= last:
            w, to = weights + begin * size, out + begin * PANEL_ROW
            if rows == 1:
                _ONE_ROW(rows, x, x_stride, w, inputs, to, out_stride, add, w + wide * size, PANEL_ROW)
            else:
                _FEW_ROWS(rows, x, x_stride, w, inputs, to, out_stride, add, w + wide * size, PANEL_ROW)
            begin += wide
    top = 0
    while top < rows:
        some = min(rows - top, _ROWS_AT_ONCE)
        tiles = (some + _MOST_ROWS - 1) // _MOST_ROWS
        step = PANEL_ROW // tiles
        for panel in range(begin, last):
            w = weights + panel * size
            done = 0
            for tile in range(tiles):
                until = some * (tile + 1) // tiles
                row = top + done
                # each tile of rows fetches its share of the next panel
                _ANY_ROWS(
                    until - done, x + row * x_stride * 4, x_stride, w, inputs,
                    out + row * out_stride * 4 + panel * PANEL_ROW, out_stride, add,
                    w + size + tile * inputs * step, step,
                )  # fmt: skip
                done = until
        top += some


def as_address(tensor: Tensor | None) -> int:
    """Returns where a tensor's memory begins, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def pack_bias(bias: Tensor | None, other: Tensor | None = None) -> Any:
    """Returns a bias as long as the packed outputs; two biases in turns of panels, as :func:`pack_pair`."""
    if bias is None:
        return None
    parts = [F.pad(b, (0, -b.shape[0] % LANES)).view(-1, LANES) for b in (bias, other) if b is not None]
    return torch.stack(parts, 1).flatten().contiguous()
