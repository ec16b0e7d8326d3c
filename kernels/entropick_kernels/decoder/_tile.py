"""The inner loop of a matrix product: a few rows times a few panels, in registers.

A panel is 16 outputs of a weight matrix, laid out [in, 16]: one step of the loop reads 16 weights in a row,
multiplies them by one number of each row. Each output is the sum of its products in their order, whatever the
number of rows: a row's results do not depend, to the last bit, on the rows beside it.

numba has no vector types; the loop is built of LLVM's, which fit every processor. numba's cache does not see
that a caller's machine code contains this: clear the cache after a change.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES: Final = 16
"""outputs of a panel"""
PANEL_ROW: Final = LANES * 4
"""bytes of a panel that belong to one input"""

_FLOAT: Final = ir.FloatType()
_INT: Final = ir.IntType(64)
_INT32: Final = ir.IntType(32)
_BYTES: Final = ir.IntType(8).as_pointer()
_VECTOR: Final = ir.VectorType(_FLOAT, LANES)
_UNALIGNED: Final = 4


def tile(rows: int, panels: int) -> Any:
    """A native function void(x, x_stride, weights, inputs, out, out_stride, add, ahead, ahead_step).

    out[m, 16 p + i] = sum_k x[m, k] * weights[p, k, i], added to what is there where ``add`` is not 0.
    All arguments are int64: ``x``, ``weights``, ``out``, ``ahead`` addresses, strides in floats. Meanwhile
    memory from ``ahead`` on is fetched into the cache, ``ahead_step`` bytes a step and panel.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def compute(
        typing: Any, x: Any, x_stride: Any, weights: Any, inputs: Any, out: Any, out_stride: Any,
        add: Any, ahead: Any, ahead_step: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Builder(builder, rows, panels).build(*arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return compute


class _Builder:
    """Emits one tile at the builder's position."""

    def __init__(self, builder: Any, rows: int, panels: int) -> None:
        self.b, self.rows, self.panels = builder, rows, panels
        module = builder.module
        self.multiply_add = cgutils.get_or_insert_function(
            module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.fmuladd.v16f32"
        )
        self.prefetch = cgutils.get_or_insert_function(
            module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32]), "llvm.prefetch.p0i8"
        )

    def build(
        self, x: Any, x_stride: Any, weights: Any, inputs: Any, out: Any, out_stride: Any, add: Any,
        ahead: Any, ahead_step: Any,
    ) -> None:  # fmt: skip
        b = self.b
        of_row = [self._at(x, b.mul(x_stride, _INT(m))) for m in range(self.rows)]
        panel = b.mul(inputs, _INT(LANES))
        of_panel = [self._at(weights, b.mul(panel, _INT(p))) for p in range(self.panels)]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        entry = b.block
        loop, done = b.append_basic_block("inputs"), b.append_basic_block("sums")
        b.branch(loop)
        b.position_at_end(loop)
        k, fetch = b.phi(_INT), b.phi(_INT)
        sums = [[b.phi(_VECTOR) for _ in of_panel] for _ in of_row]
        w = [self._load(b.gep(start, [b.mul(k, _INT(LANES))])) for start in of_panel]
        for p in range(self.panels):
            place = b.inttoptr(b.add(fetch, b.mul(ahead_step, _INT(p))), _BYTES)
            b.call(self.prefetch, [place, _INT32(0), _INT32(3), _INT32(1)])
        new = []
        for start, line in zip(of_row, sums, strict=True):
            value = self._broadcast(b.load(b.gep(start, [k])))
            new.append([b.call(self.multiply_add, [value, v, s]) for v, s in zip(w, line, strict=True)])
        following = b.add(k, _INT(1))
        onward = b.add(fetch, b.mul(ahead_step, _INT(self.panels)))
        for phi, first, then in ((k, _INT(0), following), (fetch, ahead, onward)):
            phi.add_incoming(first, entry)
            phi.add_incoming(then, loop)
        for line, results in zip(sums, new, strict=True):
            for phi, result in zip(line, results, strict=True):
                phi.add_incoming(zero, entry)
                phi.add_incoming(result, loop)
        b.cbranch(b.icmp_signed("<", following, inputs), loop, done)
        b.position_at_end(done)
        places = [
            [self._at(out, b.add(b.mul(out_stride, _INT(m)), _INT(LANES * p))) for p in range(self.panels)]
            for m in range(self.rows)
        ]
        with b.if_else(b.icmp_signed("!=", add, _INT(0))) as (more, fresh):
            with more:
                for line, results in zip(places, new, strict=True):
                    for place, result in zip(line, results, strict=True):
                        self._store(b.fadd(self._load(place), result), place)
            with fresh:
                for line, results in zip(places, new, strict=True):
                    for place, result in zip(line, results, strict=True):
                        self._store(result, place)

    def _at(self, base: Any, floats: Any) -> Any:
        return self.b.gep(self.b.inttoptr(base, _FLOAT.as_pointer()), [floats])

    def _load(self, place: Any) -> Any:
        return self.b.load(self.b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)

    def _store(self, value: Any, place: Any) -> None:
        self.b.store(value, self.b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)

    def _broadcast(self, value: Any) -> Any:
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = self.b.insert_element(nothing, value, _INT32(0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))
