"""One native call a step for the windows of all replies of a batch. Host memory alone; needs numba.

A step costs the batch one call, whatever its rows, layers and heads: the entropies are read where attention
left them, and only the aggregates of a row become Python numbers.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from entropick_kernels.loops import address, native_worker

from .counts import HeadCounts, WindowStep
from .reply import COST_COLUMNS, ReplyWindows
from .window import (
    COLLAPSED,
    COST,
    EACH,
    GENUINE,
    HEADER,
    RATE,
    RESULTS,
    VARIANCE,
    push_row,
)

_VALUES: Final = 8
"""figures of a row: G, variance, collapse rate, variance of the logits entropy, G of the form ``seed``, token
cost, relative cost, sink mass"""
_REGIONS: Final = COLLAPSED - GENUINE
"""the fields of HeadCounts"""
_COUNTS: Final = _REGIONS + 1
"""the same, and the heads that collapsed in the step"""
_SINGLES: Final = 3
_MEAN: Final = 2
_COST, _RELATIVE_COST, _SINK_MASS = range(3)
_Address: Final = ctypes.POINTER(ctypes.c_int64)
_ARGUMENTS: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("here", "rows", "layers", "heads", "batch", "places", "numbers", "first"),
            *("entropy", "entropy_layer", "entropy_row", "entropy_head", "keys", "keys_layer", "keys_row"),
            *("logits", "logits_row", "costs"),
            *("z", "bits", "paid", "values", "counts"),
        )
    ]
)
"""The arguments of a step.

``here``: the address of these arguments; ``rows``: R, the rows that are watched, of the ``batch`` of B.
Addresses: ``places`` int64 [R, 3] of each row's windows, 0 for none; ``numbers`` int64 [R] of the rows in
the batch; ``first`` int64 [R], 1 where the step's costs do not count; ``entropy`` float32 [L, B, H] and
``keys`` int64 [L, B], each with its strides in elements; ``logits`` float64 [B], the logits entropies, with
its stride; ``costs`` float32 [L, B, H, 4], 0 for none. Scratch: ``z``, ``bits`` and ``paid`` float32 [L x H].
Results: ``values`` float64 [R, 8], ``counts`` int64 [R, 8].
"""
_FIELD: Final = {name: i for i, name in enumerate(_ARGUMENTS.names or ())}
_ENTROPY, _KEYS, _LOGITS, _COSTS = (_FIELD[name] for name in ("entropy", "keys", "logits", "costs"))


def _worker(data: Any) -> None:
    """Pushes a step into the windows of every row; ``data``: _ARGUMENTS."""
    # a typed pointer cannot be read as records: hence its own address
    a = numba.carray(address(data[0]), (1,), _ARGUMENTS)[0]
    layers, heads, batch = a.layers, a.heads, a.batch
    channels = layers * heads
    places = numba.carray(address(a.places), (a.rows, 3), np.int64)
    numbers = numba.carray(address(a.numbers), (a.rows,), np.int64)
    first = numba.carray(address(a.first), (a.rows,), np.int64)
    z = numba.carray(address(a.z), (channels,), np.float32)
    bits = numba.carray(address(a.bits), (channels,), np.float32)
    paid = numba.carray(address(a.paid), (channels,), np.float32)
    values = numba.carray(address(a.values), (a.rows, _VALUES), np.float64)
    counts = numba.carray(address(a.counts), (a.rows, _COUNTS), np.int64)
    singles, out = np.empty(_SINGLES, np.float32), np.empty(RESULTS, np.float64)
    each, none = np.empty((_SINGLES, EACH), np.float64), np.empty((0, EACH), np.float64)
    for r in range(a.rows):
        row = numbers[r]
        for layer in range(layers):
            n = numba.carray(address(a.keys + 8 * (layer * a.keys_layer + row * a.keys_row)), (1,), np.int64)
            scale = np.float32(1.0 / math.log2(n[0])) if n[0] > 1 else np.float32(math.nan)
            at = a.entropy + 4 * (layer * a.entropy_layer + row * a.entropy_row)
            step = a.entropy_head
            h = numba.carray(address(at), ((heads - 1) * step + 1,), np.float32)
            for head in range(heads):
                bits[layer * heads + head] = h[head * step]
                # a step with one visible key is left out
                z[layer * heads + head] = h[head * step] * scale
        logits = numba.carray(address(a.logits + 8 * row * a.logits_row), (1,), np.float64)
        singles[0] = logits[0]
        singles[1] = singles[2] = math.nan
        heads_state = numba.carray(address(places[r, 0]), (1,), HEADER)[0]
        if heads_state.has_costs:
            known = a.costs != 0 and first[r] == 0
            relative = sink = 0.0
            relatives = sinks = 0
            for layer in range(layers):
                for head in range(heads):
                    paid[layer * heads + head] = math.nan
                    if known:
                        at = a.costs + 4 * COST_COLUMNS * ((layer * batch + row) * heads + head)
                        figures = numba.carray(address(at), (COST_COLUMNS,), np.float32)
                        paid[layer * heads + head] = figures[_COST]
                        if not math.isnan(figures[_RELATIVE_COST]):
                            relatives += 1
                            relative += figures[_RELATIVE_COST]
                        if not math.isnan(figures[_SINK_MASS]):
                            sinks += 1
                            sink += figures[_SINK_MASS]
            if relatives:
                singles[1] = relative / relatives
            if sinks:
                singles[2] = sink / sinks
        push_row(heads_state, places[r, 0], z, paid, out, none)
        values[r, 0] = out[VARIANCE] + out[RATE]
        values[r, 1], values[r, 2], values[r, 5] = out[VARIANCE], out[RATE], out[COST]
        values[r, 4] = math.nan
        if places[r, 1]:
            seed_state = numba.carray(address(places[r, 1]), (1,), HEADER)[0]
            push_row(seed_state, places[r, 1], bits, paid, out, none)
            values[r, 4] = out[VARIANCE] + out[RATE]
        for i in range(_COUNTS):
            counts[r, i] = np.int64(out[GENUINE + i])
        singles_state = numba.carray(address(places[r, 2]), (1,), HEADER)[0]
        push_row(singles_state, places[r, 2], singles, paid, out, each)
        values[r, 3] = each[0, 0]
        values[r, 6], values[r, 7] = each[1, _MEAN], each[2, _MEAN]


@functools.cache
def _compiled() -> Any:
    return native_worker(_worker)


def warmup() -> None:
    """Compiles the native call, or loads it from numba's cache."""
    _compiled()


class WatchedBatch:
    """The windows of a batch's replies, for as long as the same replies run."""

    def __init__(self, windows: Sequence[ReplyWindows], numbers: Sequence[int], layers: int, heads: int):
        """Takes the windows of the rows ``numbers`` of a batch, over ``heads`` heads in each of ``layers``.

        Raises ValueError for windows of another number of heads.
        """
        channels = layers * heads
        if any(w.heads.channels != channels for w in windows) or len(windows) != len(numbers):
            raise ValueError(f"{len(windows)} windows do not fit {len(numbers)} rows of {channels} heads")
        self.windows = list(windows)
        rows = len(self.windows)
        self._shape = (layers, heads)
        self._counted = any(w.seed is not None or w.heads.has_cuts for w in self.windows)
        self._plain = not any(w.seed is not None or w.heads.has_costs for w in self.windows)
        self._layout: tuple[Any, ...] = ()
        self._skips = False
        self._first = np.zeros(rows, dtype=np.int64)
        self._values = np.empty((rows, _VALUES))
        self._counts = np.empty((rows, _COUNTS), dtype=np.int64)
        self._regions, self._fell = self._counts[:, :_REGIONS], self._counts[:, _REGIONS]
        self._places = np.array([w.places for w in self.windows], dtype=np.int64)
        self._numbers = np.array(numbers, dtype=np.int64)
        self._scratch = np.empty((3, channels), dtype=np.float32)
        self._data = np.zeros(len(_FIELD), dtype=np.int64)
        self._start = self._data.ctypes.data_as(_Address)
        z, bits, paid = (line.ctypes.data for line in self._scratch)
        for name, value in (
            ("here", self._data.ctypes.data),
            ("rows", rows),
            ("layers", layers),
            ("heads", heads),
            ("places", self._places.ctypes.data),
            ("numbers", self._numbers.ctypes.data),
            ("z", z),
            ("bits", bits),
            ("paid", paid),
            ("first", self._first.ctypes.data),
            ("values", self._values.ctypes.data),
            ("counts", self._counts.ctypes.data),
        ):
            self._data[_FIELD[name]] = value

    def push(
        self,
        entropy: Tensor,
        keys: Tensor,
        logits: Tensor,
        costs: Tensor | None = None,
        first: Sequence[int] = (),
    ) -> list[WindowStep]:
        """Pushes a step of the whole batch, and returns the figures of the watched rows' windows then.

        On the CPU: ``entropy`` float32 [L, B, H], bits; ``keys`` int64 [L, B], visible keys; ``logits``
        float64 [B], logits entropies in bits; ``costs`` contiguous float32 [L, B, H, 4], NaN where a figure
        is absent; ``first``: places among the watched rows whose costs do not count in this step. Raises
        ValueError on shapes and types that do not fit.
        """
        layout = entropy.shape, entropy.stride(), keys.stride(), logits.stride()
        if layout != self._layout:
            self._lay_out(entropy, keys, logits)
            self._layout = layout
        data = self._data
        if first or self._skips:
            self._skips = bool(first)
            self._first[:] = 0
            self._first[list(first)] = 1
        data[_ENTROPY], data[_KEYS] = entropy.data_ptr(), keys.data_ptr()
        data[_LOGITS] = logits.data_ptr()
        if costs is None:
            data[_COSTS] = 0
        else:
            shape = (*layout[0], COST_COLUMNS)
            if costs.shape != shape or costs.dtype != torch.float32 or not costs.is_contiguous():
                raise ValueError(f"costs must be contiguous float32 {list(shape)}, got {list(costs.shape)}")
            data[_COSTS] = costs.data_ptr()
        _compiled().ctypes(self._start)
        figures = self._values.tolist()
        values = [_plain_values(line) for line in figures] if self._plain else [_values(x) for x in figures]
        fell = self._fell.tolist()
        # a named tuple's own constructor takes three times as long, for each row of each step
        new = tuple.__new__
        if not self._counted:
            return [new(WindowStep, (of_row, None, n)) for of_row, n in zip(values, fell, strict=True)]
        return [
            new(WindowStep, (of_row, new(HeadCounts, counts) if any(counts[:3]) else None, n))
            for of_row, counts, n in zip(values, self._regions.tolist(), fell, strict=True)
        ]

    def _lay_out(self, entropy: Tensor, keys: Tensor, logits: Tensor) -> None:
        """Checks how a step's figures lie in memory, and notes it for the steps to come."""
        layers, batch, heads = entropy.shape
        if (
            (layers, heads) != self._shape
            or keys.shape != (layers, batch)
            or logits.shape != (batch,)
            or (entropy.dtype, keys.dtype, logits.dtype) != (torch.float32, torch.int64, torch.float64)
        ):
            raise ValueError(f"the figures of a step do not fit {self._shape} layers and heads")
        strides = zip(
            ("entropy_layer", "entropy_row", "entropy_head", "keys_layer", "keys_row", "logits_row"),
            (*entropy.stride(), *keys.stride(), *logits.stride()),
            strict=True,
        )
        for name, value in (("batch", batch), *strides):
            self._data[_FIELD[name]] = value


def _plain_values(line: list[float]) -> tuple[float | None, ...]:
    """Returns the signals of a line without the form ``seed`` and token costs, None for NaN."""
    g, variance, rate, logits = line[:4]
    if g == g and logits == logits:
        return g, variance, rate, None, logits, None, None, None
    return _values(line)


def _values(line: list[float]) -> tuple[float | None, ...]:
    """Returns the signals of a line of results, None for NaN."""
    g, variance, rate, logits, seed, cost, relative, sink = line
    return tuple([None if x != x else x for x in (g, variance, rate, seed, logits, cost, relative, sink)])
