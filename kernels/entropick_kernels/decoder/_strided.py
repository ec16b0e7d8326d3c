"""The inner loop of attention: a few rows times columns that lie anywhere, in registers.

As :mod:`._tile`, but the columns of one step are 16 floats at a place and a stride of their own: 16 keys of
a page, whose dimensions follow each other, or 16 dimensions of a page's values, whose keys do. Each result is
one chain of multiply-adds in the order of the inputs. How many rows or columns are worked on at a time, and
where a chain is put down and taken up again, changes no bit.

numba's cache does not see that a caller's machine code contains this: clear the cache after a change.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._tile import LANES

_FLOAT = ir.FloatType()
_INT = ir.IntType(64)
_INT32 = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_UNALIGNED = 4


def strided_tile(rows: int, columns: int, *, go_on: bool) -> Any:
    """A native function void(x, x_stride, w0, w1, w2, w3, step, inputs, out, out_stride, a0, a1, a2, a3).

    out[m, 16 c + i] = sum_k x[m, k] * wc[step * k + i] for the first ``columns`` of the four places; with
    ``go_on`` the sum begins with what is there. All arguments are int64: addresses, strides in floats,
    ``inputs`` at least 1. Meanwhile as many bytes as column c has are fetched into the cache from ac on.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def compute(
        typing: Any, x: Any, x_stride: Any, w0: Any, w1: Any, w2: Any, w3: Any, step: Any, inputs: Any,
        out: Any, out_stride: Any, a0: Any, a1: Any, a2: Any, a3: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, rows, columns, go_on, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), generate

    return compute


def _emit(
    b: Any, rows: int, columns: int, go_on: bool, x: Any, x_stride: Any, w0: Any, w1: Any, w2: Any, w3: Any,
    step: Any, inputs: Any, out: Any, out_stride: Any, a0: Any, a1: Any, a2: Any, a3: Any,
) -> None:  # fmt: skip
    """The tile's code at the builder's position."""
    multiply_add = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.fmuladd.v16f32"
    )
    prefetch = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32]), "llvm.prefetch.p0i8"
    )

    def at(base: Any, floats: Any) -> Any:
        return b.gep(b.inttoptr(base, _FLOAT.as_pointer()), [floats])

    def load(place: Any) -> Any:
        return b.load(b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)

    of_row = [at(x, b.mul(x_stride, _INT(m))) for m in range(rows)]
    of_column = [at(w, _INT(0)) for w in (w0, w1, w2, w3)[:columns]]
    places = [
        [at(out, b.add(b.mul(out_stride, _INT(m)), _INT(LANES * c))) for c in range(columns)]
        for m in range(rows)
    ]
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    first = [[load(place) if go_on else zero for place in line] for line in places]
    entry = b.block
    loop, done = b.append_basic_block("inputs"), b.append_basic_block("sums")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(_INT)
    sums = [[b.phi(_VECTOR) for _ in of_column] for _ in of_row]
    offset = b.mul(k, step)
    w = [load(b.gep(start, [offset])) for start in of_column]
    read = b.mul(k, _INT(LANES * 4))
    for ahead in (a0, a1, a2, a3)[:columns]:
        b.call(prefetch, [b.inttoptr(b.add(ahead, read), _BYTES), _INT32(0), _INT32(3), _INT32(1)])
    new = []
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    for start, line in zip(of_row, sums, strict=True):
        one = b.insert_element(nothing, b.load(b.gep(start, [k])), _INT32(0))
        value = b.shuffle_vector(one, nothing, lanes)
        new.append([b.call(multiply_add, [value, v, s]) for v, s in zip(w, line, strict=True)])
    following = b.add(k, _INT(1))
    k.add_incoming(_INT(0), entry)
    k.add_incoming(following, loop)
    for begin, line, results in zip(first, sums, new, strict=True):
        for value, phi, result in zip(begin, line, results, strict=True):
            phi.add_incoming(value, entry)
            phi.add_incoming(result, loop)
    b.cbranch(b.icmp_signed("<", following, inputs), loop, done)
    b.position_at_end(done)
    for line, results in zip(places, new, strict=True):
        for place, result in zip(line, results, strict=True):
            b.store(result, b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)
