"""The inner loop of a product whose weights are decoded in registers, for every form but float32.

The chains of multiply-adds of each output are those of :mod:`._tile`, over the float32 numbers that the
weights stand for: the results have the same bits.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._tile import BLOCK, Tile, block_sums, for_rows, loop
from .formats import BFLOAT16, LANES, WeightFormat

_INT: Final = ir.IntType(64)
_INT32: Final = ir.IntType(32)
_BYTE: Final = ir.IntType(8)
_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)
_INTS: Final = ir.VectorType(_INT32, LANES)
_SHORTS: Final = ir.VectorType(ir.IntType(16), LANES)
_SMALL: Final = ir.VectorType(_BYTE, LANES)
_HALVES: Final = ir.VectorType(ir.HalfType(), LANES)
_LINE: Final = 64
"""bytes that a turn of the inner loop reads of each panel"""
_HALF_TO_FLOAT: Final = 2.0**112
"""what the bits of a half, moved to where a float has them, are too small by"""


def coded_tile(form: WeightFormat, rows: Sequence[int], panels: int, *, keep: bool = False) -> Any:
    """Returns a native function that multiplies rows by panels of a form.

    Its arguments are those of :func:`._tile.panel_tile`'s, but for ``ahead_step``: panels from ``ahead`` on
    are fetched into the cache. With ``keep`` there is one more, the address to which the one panel is
    decoded, float32 [inputs, 16].
    """

    def emit(b: Any, count: int, arguments: Sequence[Any]) -> None:
        x, x_stride, weights, inputs, out, out_stride, add, ahead = arguments[:8]
        size = panel_size(b, form, inputs)
        places = [b.add(weights, b.mul(size, _INT(p))) for p in range(panels)]
        fetched = [b.add(ahead, b.mul(size, _INT(p))) for p in range(panels)]
        tile = Tile(b, count, x, x_stride, places, _INT(LANES), inputs, out, out_stride)
        of_row = tile.inputs_of_rows()

        def use(k: Any, weights: Sequence[Any], sums: list[Any]) -> list[Any]:
            if keep:
                store_decoded(b, arguments[8], k, weights[0])
            return tile.add_products(of_row, k, weights, sums)

        lines = tile.lines(_Decoder(b, form, places, fetched).walk(inputs, count * panels, use))
        with b.if_else(b.icmp_signed("!=", add, _INT(0))) as (more, fresh):
            with more:
                tile.store(lines, add=True)
            with fresh:
                tile.store(lines)

    return for_rows(rows, 8 + keep, emit)


def store_decoded(b: Any, room: Any, k: Any, weights: Any) -> None:
    """Makes the code that writes the weights of input k where a decoded panel lies."""
    place = b.inttoptr(b.add(room, b.mul(k, _INT(LANES * 4))), _FLOATS.as_pointer())
    b.store(weights, place, align=4)


def panel_decoder(form: WeightFormat) -> Any:
    """Returns a native function (weights, inputs, out) that decodes one panel.

    ``weights`` and ``out``: addresses; out float32 [inputs, 16].
    """

    def decode(typing: Any, weights: Any, inputs: Any, out: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, given: Any) -> Any:
            start, count, to = given

            def use(k: Any, weights: Sequence[Any], nothing: Sequence[Any]) -> list[Any]:
                store_decoded(b, to, k, weights[0])
                return []

            _Decoder(b, form, [start], []).walk(count, 0, use)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return intrinsic(decode)


def panel_size(b: Any, form: WeightFormat, inputs: Any) -> Any:
    """Makes the code that computes the bytes of a panel."""
    if not form.grouped:
        return b.mul(inputs, _INT(LANES * form.bits // 8))
    return b.mul(b.sdiv(inputs, _INT(form.group)), _INT(form.group_bytes))


@dataclass(frozen=True, slots=True)
class _Decoder:
    """The code that walks through some panels and decodes them, made at the builder's position.

    ``panels``: their addresses. ``ahead``: as many addresses of panels to fetch into the cache, or none.
    """

    b: Any
    form: WeightFormat
    panels: Sequence[Any]
    ahead: Sequence[Any]

    def walk(
        self, inputs: Any, count: int, use: Callable[[Any, list[Any], list[Any]], list[Any]]
    ) -> list[Any]:
        """Makes the loops over the inputs and returns their ``count`` vectors of sums.

        ``use(k, weights, sums)`` makes the code of input k, whose weights are a vector of each panel.
        """
        b = self.b
        if not self.form.grouped:
            return block_sums(b, inputs, BLOCK, count, lambda k, sums: use(k, self._floats(k), sums))
        bits, head, size = self.form.bits, self.form.head_bytes, self.form.group
        step = _LINE * 8 // (LANES * bits)

        def group(g: Any, sums: list[Any]) -> list[Any]:
            at = b.mul(g, _INT(self.form.group_bytes))
            starts = [b.add(panel, at) for panel in self.panels]
            fetched = [b.add(panel, at) for panel in self.ahead]
            scales = [self._scales(start) for start in starts]
            self._fetch(fetched)
            first = b.mul(g, _INT(size))

            def line(i: Any, sums: list[Any]) -> list[Any]:
                self._fetch([b.add(place, b.mul(_INT(_LINE), b.add(i, _INT(1)))) for place in fetched])
                place = b.add(_INT(head), b.mul(i, _INT(_LINE)))
                lines = [b.add(start, place) for start in starts]
                k = b.add(first, b.mul(i, _INT(step)))
                for turn in range(0, step, 8 // bits):
                    numbers = [self._numbers(of, turn) for of in lines]
                    for j in range(8 // bits):
                        weights = [self._scaled(n[j], *s) for n, s in zip(numbers, scales, strict=True)]
                        sums = use(b.add(k, _INT(turn + j)), weights, sums)
                return sums

            return loop(b, _INT(0), _INT(size // step), sums, line)

        return block_sums(b, b.sdiv(inputs, _INT(size)), BLOCK // size, count, group)

    def _floats(self, k: Any) -> list[Any]:
        """Returns the weights of input k in a form of 16 bits."""
        b, size = self.b, _INT(LANES * 2)
        self._fetch([b.add(place, b.mul(k, size)) for place in self.ahead])
        found = [self._load(b.add(place, b.mul(k, size)), _SHORTS) for place in self.panels]
        if self.form is BFLOAT16:
            shift = ir.Constant(_INTS, [16] * LANES)
            return [b.bitcast(b.shl(b.zext(value, _INTS), shift), _FLOATS) for value in found]
        return [self._from_half(value) for value in found]

    def _scales(self, place: Any) -> tuple[Any, Any]:
        """Returns the scales of a group and its minima; None for no minima."""
        b = self.b
        scale = self._scale(place)
        if self.form.minimum:
            return scale, self._scale(b.add(place, _INT(LANES * self.form.scale_bytes)))
        if self.form.offset:
            return scale, b.fmul(scale, ir.Constant(_FLOATS, [-float(self.form.offset)] * LANES))
        return scale, None

    def _scale(self, place: Any) -> Any:
        """Returns the scales, or the minima, at an address."""
        if self.form.wide:
            return self._load(place, _FLOATS)
        return self._from_half(self._load(place, _SHORTS))

    def _numbers(self, line: Any, turn: int) -> list[Any]:
        """Returns the numbers of the next inputs of a line: one of 8 bits, or two of 4."""
        b = self.b
        small = self._load(b.add(line, _INT(turn * LANES * self.form.bits // 8)), _SMALL)
        if self.form.bits == 8:
            return [b.sitofp(b.sext(small, _INTS), _FLOATS)]
        both = b.zext(small, _INTS)
        low = b.and_(both, ir.Constant(_INTS, [15] * LANES))
        high = b.lshr(both, ir.Constant(_INTS, [4] * LANES))
        return [b.sitofp(low, _FLOATS), b.sitofp(high, _FLOATS)]

    def _scaled(self, number: Any, scale: Any, minimum: Any) -> Any:
        """Returns scale * number + minimum; the product is exact, so that the sum alone is rounded."""
        b = self.b
        if minimum is None:
            return b.fmul(scale, number)
        multiply_add = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), "llvm.fmuladd.v16f32"
        )
        return b.call(multiply_add, [scale, number, minimum])

    def _from_half(self, bits: Any) -> Any:
        """Returns float16 numbers, given as their bits, as float32."""
        b = self.b
        if _HAS_HALVES:
            return b.fpext(b.bitcast(bits, _HALVES), _FLOATS)
        wide = b.zext(bits, _INTS)
        size = b.shl(b.and_(wide, ir.Constant(_INTS, [0x7FFF] * LANES)), ir.Constant(_INTS, [13] * LANES))
        value = b.fmul(b.bitcast(size, _FLOATS), ir.Constant(_FLOATS, [_HALF_TO_FLOAT] * LANES))
        # infinity and NaN keep their exponent of ones
        special = b.icmp_unsigned(">=", size, ir.Constant(_INTS, [0x7C00 << 13] * LANES))
        whole = b.or_(size, ir.Constant(_INTS, [0x7F800000] * LANES))
        value = b.select(special, whole, b.bitcast(value, _INTS))
        sign = b.shl(b.and_(wide, ir.Constant(_INTS, [0x8000] * LANES)), ir.Constant(_INTS, [16] * LANES))
        return b.bitcast(b.or_(value, sign), _FLOATS)

    def _fetch(self, places: Sequence[Any]) -> None:
        """Fetches the lines at some addresses into the cache."""
        b = self.b
        prefetch = cgutils.get_or_insert_function(
            b.module,
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32]),
            "llvm.prefetch.p0i8",
        )
        for place in places:
            pointer = b.inttoptr(place, _BYTE.as_pointer())
            b.call(prefetch, [pointer, _INT32(0), _INT32(3), _INT32(1)])

    def _load(self, place: Any, kind: Any) -> Any:
        return self.b.load(self.b.inttoptr(place, kind.as_pointer()), align=1)


def _converts_halves() -> bool:
    """Tells whether the processor turns float16 into float32; elsewhere LLVM would call a library."""
    if platform.machine() == "aarch64":
        return True
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))


_HAS_HALVES: Final = _converts_halves()
