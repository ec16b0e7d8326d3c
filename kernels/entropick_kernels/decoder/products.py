"""Products of a few rows with panels of float32."""

from __future__ import annotations

from typing import Final

from .._native import native
from ._tile import PANEL_ROW, panel_tile

TILE_ROWS: Final = 6
"""rows that fit a tile of one panel"""
# more panels at a time for few rows: a lone panel would leave the processor waiting
_ONE_ROW: Final = panel_tile((1,), 4)
_FEW_ROWS: Final = panel_tile((2, 3), 2)
ANY_ROWS: Final = panel_tile(range(1, TILE_ROWS + 1), 1)
_ROWS_AT_ONCE: Final = 48
"""rows whose inputs stay in the cache while they meet several panels"""
_CACHED: Final = 1 << 18
"""bytes of weights that stay in the cache while they meet further rows"""


@native()
def panels_at_once(rows: int, inputs: int, panels: int, threads: int) -> int:
    """Returns an even number of panels that one thread should take at a time."""
    share = panels // (4 * threads)
    if rows > TILE_ROWS // 2:
        share = min(share, _CACHED // (inputs * PANEL_ROW))
    return min(max(share // 2 * 2, 2), 8)


@native()
def product(
    x: int, rows: int, x_stride: int, weights: int, inputs: int, first: int, last: int, out: int,
    out_stride: int, add: int,
) -> None:  # fmt: skip
    """Computes out[:, 16 first : 16 last] = x @ panels first..last, added to ``out`` where ``add`` is 1.

    x [rows, inputs], out [rows, ..], weights as :func:`.packing.pack` makes them: addresses; strides in
    floats.
    """
    size = inputs * PANEL_ROW
    begin = first
    if rows <= TILE_ROWS // 2:
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
        tiles = (some + TILE_ROWS - 1) // TILE_ROWS
        step = PANEL_ROW // tiles
        for panel in range(begin, last):
            w = weights + panel * size
            done = 0
            for tile in range(tiles):
                until = some * (tile + 1) // tiles
                row = top + done
                # each tile of rows fetches its share of the next panel
                ANY_ROWS(
                    until - done, x + row * x_stride * 4, x_stride, w, inputs,
                    out + row * out_stride * 4 + panel * PANEL_ROW, out_stride, add,
                    w + size + tile * inputs * step, step,
                )  # fmt: skip
                done = until
        top += some
