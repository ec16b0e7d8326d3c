"""Products of a few rows with packed weights, and how weights are packed."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .._native import native
from ._tile import LANES, PANEL_ROW, tile

_TILE_1_4: Final = tile(1, 4)
_TILE_2_2: Final = tile(2, 2)
_TILE_3_2: Final = tile(3, 2)
_TILE_1: Final = tile(1, 1)
_TILE_2: Final = tile(2, 1)
_TILE_3: Final = tile(3, 1)
_TILE_4: Final = tile(4, 1)
_TILE_5: Final = tile(5, 1)
_TILE_6: Final = tile(6, 1)
_MOST_ROWS: Final = 6
_ROWS_AT_ONCE: Final = 48
"""rows whose inputs stay in the cache while they meet several panels"""
_CACHED: Final = 1 << 18
"""bytes of weights that stay in the cache while they meet further rows"""


def pack(weight: Tensor) -> Tensor:
    """A matrix [out, in] as panels [ceil(out / 16), in, 16]; missing outputs are zeros."""
    out, inputs = weight.shape
    short = -out % LANES
    padded = F.pad(weight, (0, 0, 0, short)) if short else weight
    return padded.view(-1, LANES, inputs).transpose(1, 2).contiguous()


def pack_pair(first: Tensor, second: Tensor) -> Tensor:
    """Two matrices of one shape as panels in turns: panels 2i and 2i + 1 hold the same outputs of both."""
    return torch.stack((pack(first), pack(second)), 1).flatten(0, 1)


def unpack(panels: Tensor, out: int) -> Tensor:
    """What :func:`pack` was given, [out, in]."""
    return panels.transpose(1, 2).reshape(-1, panels.shape[1])[:out]


@native()
def panels_at_once(rows: int, inputs: int, panels: int, threads: int) -> int:
    """An even number of panels that one thread should take at a time."""
    share = panels // (4 * threads)
    if rows > _MOST_ROWS // 2:
        share = min(share, _CACHED // (inputs * PANEL_ROW))
    return min(max(share // 2 * 2, 2), 8)


@native()
def _wide(x: int, rows: int, x_stride: int, w: int, inputs: int, out: int, out_stride: int, add: int) -> None:
    """Four panels for one row, two for two or three: a lone panel would leave the processor waiting."""
    ahead = w + inputs * PANEL_ROW * (4 if rows == 1 else 2)
    if rows == 1:
        _TILE_1_4(x, x_stride, w, inputs, out, out_stride, add, ahead, PANEL_ROW)
    elif rows == 2:
        _TILE_2_2(x, x_stride, w, inputs, out, out_stride, add, ahead, PANEL_ROW)
    else:
        _TILE_3_2(x, x_stride, w, inputs, out, out_stride, add, ahead, PANEL_ROW)


@native()
def _narrow(
    x: int, rows: int, x_stride: int, w: int, inputs: int, out: int, out_stride: int, add: int,
    ahead: int, step: int,
) -> None:  # fmt: skip
    if rows == 1:
        _TILE_1(x, x_stride, w, inputs, out, out_stride, add, ahead, step)
    elif rows == 2:
        _TILE_2(x, x_stride, w, inputs, out, out_stride, add, ahead, step)
    elif rows == 3:
        _TILE_3(x, x_stride, w, inputs, out, out_stride, add, ahead, step)
    elif rows == 4:
        _TILE_4(x, x_stride, w, inputs, out, out_stride, add, ahead, step)
    elif rows == 5:
        _TILE_5(x, x_stride, w, inputs, out, out_stride, add, ahead, step)
    else:
        _TILE_6(x, x_stride, w, inputs, out, out_stride, add, ahead, step)


@native()
def product(
    x: int, rows: int, x_stride: int, weights: int, inputs: int, first: int, last: int, out: int,
    out_stride: int, add: int,
) -> None:  # fmt: skip
    """out[:, 16 first : 16 last] = x @ panels first..last, added to ``out`` where ``add`` is 1.

    x [rows, inputs], out [rows, ..], weights as :func:`pack` makes them: addresses; strides in floats.
    """
    size = inputs * PANEL_ROW
    begin = first
    if rows <= _MOST_ROWS // 2:
        wide = 4 if rows == 1 else 2
        while begin + wide <= last:
            _wide(x, rows, x_stride, weights + begin * size, inputs, out + begin * PANEL_ROW, out_stride, add)
            begin += wide
    top = 0
    while top < rows:
        some = min(rows - top, _ROWS_AT_ONCE)
        blocks = (some + _MOST_ROWS - 1) // _MOST_ROWS
        step = PANEL_ROW // blocks
        for panel in range(begin, last):
            w = weights + panel * size
            done = 0
            for block in range(blocks):
                until = some * (block + 1) // blocks
                row = top + done
                # each block of rows fetches its share of the next panel
                _narrow(
                    x + row * x_stride * 4, until - done, x_stride, w, inputs,
                    out + row * out_stride * 4 + panel * PANEL_ROW, out_stride, add,
                    w + size + block * inputs * step, step,
                )  # fmt: skip
                done = until
        top += some


def as_address(tensor: Tensor | None) -> int:
    """Where a tensor's memory begins, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def rows_of(bias: Tensor | None, other: Tensor | None = None) -> Any:
    """A bias as long as the packed outputs; two biases in turns of panels, as :func:`pack_pair`."""
    if bias is None:
        return None
    parts = [F.pad(b, (0, -b.shape[0] % LANES)).view(-1, LANES) for b in (bias, other) if b is not None]
    return torch.stack(parts, 1).flatten().contiguous()
