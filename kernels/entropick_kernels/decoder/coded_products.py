"""Products with panels of a coded form: one native function a form, which the program calls at its address.

So a start compiles those of the model's own forms alone.
"""

from __future__ import annotations

import functools
import types as python
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .._native import native_worker
from ._coded_tile import coded_tile, panel_decoder
from ._tile import PANEL_ROW
from .attention import FLOAT, vector
from .formats import CODED, FLOAT32, LANES, WeightFormat
from .products import ANY_ROWS, TILE_ROWS

_ARGUMENTS: Final = 12
_FEW_ROWS: Final = 3
"""rows that are multiplied while the weights are decoded; with more, the first few decode for the others"""
_LEAD_ROWS: Final = 4
_INT: Final = ir.IntType(64)
# the parts of _product that belong to a form; each form's copy has its own
_WIDE: int = 0
_ONE: Any = None
_FEW: Any = None
_LEAD: Any = None
_DECODE: Any = None


@intrinsic  # type: ignore[untyped-decorator]
def call_coded(
    typing: Any, function: Any, x: Any, rows: Any, x_stride: Any, weights: Any, inputs: Any, first: Any,
    last: Any, out: Any, out_stride: Any, add: Any, size: Any, room: Any,
) -> Any:  # fmt: skip
    """Computes out[:, 16 first : 16 last] = x @ panels first..last, added to ``out`` where ``add`` is 1.

    ``function``: what :func:`coded_product` returned, for the form of the panels. x [rows, inputs], out
    [rows, ..], weights as :func:`.packing.pack` makes them, and ``room`` [inputs, 16] of the thread's own:
    addresses; strides in floats; ``size``: bytes of a panel. With 0 rows, output ``first`` of the matrix
    is written to ``out`` [inputs].
    """

    def generate(context: Any, b: Any, signature: Any, given: Any) -> Any:
        cells = cgutils.alloca_once(b, _INT, _ARGUMENTS)
        for i, value in enumerate(given[1:]):
            b.store(value, b.gep(cells, [ir.IntType(32)(i)]))
        kind = ir.FunctionType(ir.VoidType(), [_INT.as_pointer()]).as_pointer()
        b.call(b.inttoptr(given[0], kind), [cells])
        return context.get_dummy_value()

    return types.void(*[types.int64] * (1 + _ARGUMENTS)), generate


def _product(cells: Any) -> None:
    x, rows, x_stride, weights, inputs = cells[0], cells[1], cells[2], cells[3], cells[4]
    begin, last, out, out_stride, add = cells[5], cells[6], cells[7], cells[8], cells[9]
    size, room = cells[10], cells[11]
    if rows == 0:
        _DECODE(weights + begin // LANES * size, inputs, room)
        decoded, row = vector(room, inputs * LANES), vector(out, inputs)
        for i in range(inputs):
            row[i] = decoded[i * LANES + begin % LANES]
        return
    if rows == 1:
        while begin + _WIDE <= last:
            w = weights + begin * size
            _ONE(rows, x, x_stride, w, inputs, out + begin * PANEL_ROW, out_stride, add, w + _WIDE * size)
            begin += _WIDE
    elif rows <= _FEW_ROWS:
        while begin < last:
            w = weights + begin * size
            _FEW(rows, x, x_stride, w, inputs, out + begin * PANEL_ROW, out_stride, add, w + size)
            begin += 1
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    # of the tiles of rows the first decodes, and has few rows where it can: registers are scarce
    lead = min(rows, max(rows - TILE_ROWS * (tiles - 1), _LEAD_ROWS))
    share = size // max(tiles - 1, 1)
    step = (share + inputs - 1) // inputs
    for panel in range(begin, last):
        w, to = weights + panel * size, out + panel * PANEL_ROW
        if rows <= _FEW_ROWS:
            _DECODE(w, inputs, room)
            ANY_ROWS(rows, x, x_stride, room, inputs, to, out_stride, add, w + size, step)
            continue
        _LEAD(lead, x, x_stride, w, inputs, to, out_stride, add, w + size if tiles == 1 else w, room)
        done = lead
        for tile in range(1, tiles):
            until = lead + (rows - lead) * tile // (tiles - 1)
            # each of the others fetches its share of the next panel
            ANY_ROWS(
                until - done, x + done * x_stride * FLOAT, x_stride, room, inputs,
                to + done * out_stride * FLOAT, out_stride, add, w + size + (tile - 1) * share, step,
            )  # fmt: skip
            done = until


def _of_form(form: WeightFormat) -> Any:
    """Returns the function of a form: with its own tiles, and a name by which its code is kept on disk."""
    wide = 2 if form.grouped else 4
    own = {
        "_WIDE": wide,
        "_ONE": coded_tile(form, (1,), wide),
        "_FEW": coded_tile(form, range(2, _FEW_ROWS + 1), 1),
        "_LEAD": coded_tile(form, range(_LEAD_ROWS, TILE_ROWS + 1), 1, keep=True),
        "_DECODE": panel_decoder(form),
    }
    name = f"_product_{form.name.replace(' ', '_')}"
    made = python.FunctionType(_product.__code__, globals() | own, name)
    made.__qualname__ = name
    return made


_PRODUCTS: Final = {form: _of_form(form) for form in CODED}


@functools.cache
def _compiled(form: WeightFormat) -> Any:
    return native_worker(_PRODUCTS[form])


def coded_product(form: WeightFormat) -> int:
    """Returns the address of a form's product, which is compiled at its first use; 0 of float32."""
    return 0 if form == FLOAT32 else int(_compiled(form).address)
