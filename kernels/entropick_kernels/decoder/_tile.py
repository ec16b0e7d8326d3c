"""The inner loop of a product: a few rows times a few columns of 16 outputs, in registers.

One step of the loop reads 16 weights of each column and multiplies them by one number of each row. The
products of :data:`BLOCK` inputs are one chain of multiply-adds in the order of the inputs, and the blocks'
sums are added in theirs, whatever the number of rows and columns: a row's results do not depend, to the last
bit, on what is worked on beside it.

Two kinds of columns: the panels of a packed matrix, which lie one behind the other (:func:`panel_tile`), and
columns at addresses of their own (:func:`paged_tile`), as blocks have them.

numba has no vector types; the loop is built of LLVM's, which fit every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .formats import LANES

PANEL_ROW: Final = LANES * 4
"""bytes of a panel that belong to one input"""
BLOCK: Final = 128
"""inputs whose products are one chain: longer ones double or treble the rounding of a model's logits"""

_FLOAT: Final = ir.FloatType()
_INT: Final = ir.IntType(64)
_INT32: Final = ir.IntType(32)
_BYTES: Final = ir.IntType(8).as_pointer()
_VECTOR: Final = ir.VectorType(_FLOAT, LANES)
_UNALIGNED: Final = 4


def panel_tile(rows: Sequence[int], panels: int) -> Any:
    """Returns a native function that multiplies rows by panels.

    Its arguments: rows, x, x_stride, weights, inputs, out, out_stride, add, ahead, ahead_step. It computes
    out[m, 16 p + i] = sum_k x[m, k] * weights[p, k, i], and adds it to what is there where ``add`` is not 0,
    for any number of rows in ``rows``. All arguments are int64: ``x``, ``weights``, ``out`` and ``ahead``
    addresses, strides in floats. Meanwhile memory from ``ahead`` on is fetched into the cache, ``ahead_step``
    bytes a step and panel.
    """

    def emit(b: Any, count: int, arguments: Sequence[Any]) -> None:
        x, x_stride, weights, inputs, out, out_stride, add, ahead, ahead_step = arguments
        size = b.mul(inputs, _INT(PANEL_ROW))
        columns = [b.add(weights, b.mul(size, _INT(p))) for p in range(panels)]
        fetched = [b.add(ahead, b.mul(ahead_step, _INT(p))) for p in range(panels)]
        tile = Tile(b, count, x, x_stride, columns, _INT(LANES), inputs, out, out_stride)
        sums = tile.multiply(fetched, b.mul(ahead_step, _INT(panels)), go_on=False)
        with b.if_else(b.icmp_signed("!=", add, _INT(0))) as (more, fresh):
            with more:
                tile.store(sums, add=True)
            with fresh:
                tile.store(sums)

    return for_rows(rows, 9, emit)


def paged_tile(rows: Sequence[int], columns: int, *, go_on: bool) -> Any:
    """Returns a native function that multiplies rows by columns at addresses of their own.

    Its arguments: rows, x, x_stride, w0 .., step, inputs, out, out_stride, ahead0 .. It computes out[m, 16 c
    + i] = sum_k x[m, k] * wc[step * k + i] for ``columns`` addresses w, for any number of rows in ``rows``;
    with ``go_on`` the chain begins with what is there. All arguments are int64: addresses, strides in floats,
    ``inputs`` at least 1. Meanwhile as many bytes as column c has are fetched into the cache from its
    ``ahead`` on.
    """

    def emit(b: Any, count: int, arguments: Sequence[Any]) -> None:
        x, x_stride = arguments[:2]
        step, inputs, out, out_stride = arguments[2 + columns : 6 + columns]
        tile = Tile(b, count, x, x_stride, arguments[2 : 2 + columns], step, inputs, out, out_stride)
        tile.store(tile.multiply(arguments[6 + columns :], _INT(PANEL_ROW), go_on=go_on))

    return for_rows(rows, 6 + 2 * columns, emit)


def loop(
    b: Any, first: Any, last: Any, begin: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Makes a loop from ``first`` to before ``last``, at least one turn, that hands values on.

    Returns the last turn's values. ``body(i, values)`` makes the code of a turn and returns its values.
    """
    entry = b.block
    turn, done = b.append_basic_block("turn"), b.append_basic_block("done")
    b.branch(turn)
    b.position_at_end(turn)
    i = b.phi(_INT)
    carried = [b.phi(value.type) for value in begin]
    new = body(i, list(carried))
    following, end = b.add(i, _INT(1)), b.block
    i.add_incoming(first, entry)
    i.add_incoming(following, end)
    for phi, value, result in zip(carried, begin, new, strict=True):
        phi.add_incoming(value, entry)
        phi.add_incoming(result, end)
    b.cbranch(b.icmp_signed("<", following, last), turn, done)
    b.position_at_end(done)
    return new


def block_sums(
    b: Any, turns: Any, a_block: int, count: int, body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Makes a loop of ``turns`` turns whose ``count`` vectors of sums begin anew with each block of turns.

    Returns the sums of the blocks' sums. ``body`` is that of :func:`loop`.
    """
    zeros = [ir.Constant(_VECTOR, [0.0] * LANES)] * count
    size = _INT(a_block)

    def block(i: Any, totals: list[Any]) -> list[Any]:
        start = b.mul(i, size)
        end = b.add(start, size)
        end = b.select(b.icmp_signed("<", end, turns), end, turns)
        sums = loop(b, start, end, zeros, body)
        return [b.fadd(total, value) for total, value in zip(totals, sums, strict=True)]

    blocks = b.sdiv(b.add(turns, _INT(a_block - 1)), size)
    return loop(b, _INT(0), blocks, zeros, block)


def for_rows(rows: Sequence[int], size: int, emit: Callable[[Any, int, Sequence[Any]], None]) -> Any:
    """Returns a native function (rows, ...) of ``size`` further arguments: the code of that many rows.

    ``emit`` makes the code of one number of rows at the builder's position. More rows than there is code for
    are taken for the last number.
    """

    def compute(typing: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            done = builder.append_basic_block("done")
            cases = [builder.append_basic_block(f"rows{count}") for count in rows]
            choice = builder.switch(given[0], cases[-1])
            for count, case in zip(rows, cases, strict=True):
                if case is not cases[-1]:
                    choice.add_case(_INT(count), case)
                builder.position_at_end(case)
                emit(builder, count, given[1:])
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(*[types.int64] * (1 + size)), generate

    # numba wants a parameter for every argument
    names = ["typing", "rows", *(f"a{i}" for i in range(size))]
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    compute.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(compute)


@dataclass(frozen=True, slots=True)
class Tile:
    """The code of one tile, made at the builder's position; all but ``rows`` are LLVM values."""

    b: Any
    rows: int
    x: Any
    x_stride: Any
    columns: Sequence[Any]
    step: Any
    inputs: Any
    out: Any
    out_stride: Any

    def multiply(self, ahead: Sequence[Any], ahead_step: Any, *, go_on: bool) -> list[list[Any]]:
        """Makes the loop over the inputs and returns its sums, rows of vectors.

        Address ``ahead[c] + k * ahead_step`` is fetched into the cache at input k. With ``go_on`` one chain
        of all inputs begins with what is at the outputs' places.
        """
        b = self.b
        prefetch = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32]), "llvm.prefetch.p0i8"
        )
        of_row = self.inputs_of_rows()
        of_column = [self._at(column, _INT(0)) for column in self.columns]

        def turn(k: Any, sums: list[Any]) -> list[Any]:
            offset, fetched = b.mul(k, self.step), b.mul(k, ahead_step)
            weights = [self._load(b.gep(start, [offset])) for start in of_column]
            for start in ahead:
                place = b.inttoptr(b.add(start, fetched), _BYTES)
                b.call(prefetch, [place, _INT32(0), _INT32(3), _INT32(1)])
            return self.add_products(of_row, k, weights, sums)

        if go_on:
            first = [self._load(place) for line in self._places() for place in line]
            sums = loop(b, _INT(0), self.inputs, first, turn)
        else:
            sums = block_sums(b, self.inputs, BLOCK, self.rows * len(self.columns), turn)
        return self.lines(sums)

    def add_products(
        self, of_row: Sequence[Any], k: Any, weights: Sequence[Any], sums: Sequence[Any]
    ) -> list[Any]:
        """Makes the code that adds each row's number k times each column's weights to the row's sums."""
        b, multiply_add, new = self.b, self.multiply_add(), []
        for start, line in zip(of_row, self.lines(sums), strict=True):
            value = self.broadcast(b.load(b.gep(start, [k])))
            new += [b.call(multiply_add, [value, w, s]) for w, s in zip(weights, line, strict=True)]
        return new

    def lines(self, sums: Sequence[Any]) -> list[list[Any]]:
        """Returns the sums, which lie row by row, as rows."""
        wide = len(self.columns)
        return [list(sums[m * wide : m * wide + wide]) for m in range(self.rows)]

    def multiply_add(self) -> Any:
        """Returns LLVM's function a * b + c of vectors, rounded once where the processor can."""
        return cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.fmuladd.v16f32"
        )

    def inputs_of_rows(self) -> list[Any]:
        """Returns where each row of inputs begins."""
        return [self._at(self.x, self.b.mul(self.x_stride, _INT(m))) for m in range(self.rows)]

    def store(self, sums: Sequence[Sequence[Any]], *, add: bool = False) -> None:
        """Makes the code that writes the sums, or adds them to the numbers at their places."""
        for line, results in zip(self._places(), sums, strict=True):
            for place, result in zip(line, results, strict=True):
                value = self.b.fadd(self._load(place), result) if add else result
                self.b.store(value, self.b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)

    def _places(self) -> list[list[Any]]:
        """Returns where each output vector lies."""
        return [
            [
                self._at(self.out, self.b.add(self.b.mul(self.out_stride, _INT(m)), _INT(LANES * c)))
                for c in range(len(self.columns))
            ]
            for m in range(self.rows)
        ]

    def _at(self, base: Any, floats: Any) -> Any:
        return self.b.gep(self.b.inttoptr(base, _FLOAT.as_pointer()), [floats])

    def _load(self, place: Any) -> Any:
        return self.b.load(self.b.bitcast(place, _VECTOR.as_pointer()), align=_UNALIGNED)

    def broadcast(self, value: Any) -> Any:
        """Returns a vector of one number."""
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = self.b.insert_element(nothing, value, _INT32(0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))
