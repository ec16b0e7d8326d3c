"""The rolling window of a set of heads: a state that takes a step at a time, at a cost of so much a head.

It holds the last steps in a ring and corrects mean and second moment by the value that enters and the value
that leaves; every ``size`` steps both are computed anew from the ring, so that no error can grow. The state
of a reply is one block of memory: a copy is the state of a branch. Figures equal those of :mod:`.reference`;
they depend on the steps that were pushed, and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from entropick_kernels.loops import address, native

from .quadrants import Cuts
from .reference import DROP, LEAST, TOLERANCE, WINDOW

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

HEADER: Final = np.dtype(
    [
        *((name, np.int64) for name in ("channels", "size", "least", "steps", "has_costs")),
        *((name, np.float64) for name in ("drop", "cost", "genuine", "mechanical")),
    ]
)
"""The beginning of a state.

Behind it lie float64 [channels] of means, second moments and sums of costs; int32 [channels] of values in
the window, collapses in it and costs in it; float32 [size, channels] of values and, where ``has_costs``, of
costs.
``cost``, ``genuine`` and ``mechanical``: the cut points, NaN for none.
"""
_WIDE: Final = HEADER.itemsize
_NARROW: Final = 3 * 8
_RINGS: Final = 3 * (8 + 4)

VALUED, VARIANCE, RATE, COSTED, COST = range(5)
"""The columns of a step's result: heads with enough values, mean variance, mean collapse rate, heads with a
cost, mean cost."""
GENUINE, MECHANICAL, TRANSITION = range(5, 8)
"""Heads in each region of the axis of G."""
QUADRANTS: Final = 8
"""The first of four columns: heads in each quadrant but TRANSITION, in the order of ``Quadrant``."""
COLLAPSED: Final = 12
"""Heads that collapsed in this step."""
RESULTS: Final = 13
EACH: Final = 3
"""Figures of a channel: variance, collapse rate and mean."""


@native()
def _falls(before: Any, after: Any, drop: float) -> int:
    """Returns 1 for a collapse between two values, 0 for none and where one of them is NaN."""
    return 1 if np.float64(after) - np.float64(before) < -drop - TOLERANCE else 0


@native()
def _renew(ring: Float32, count: Any, means: Float64, moments: Float64) -> None:
    """Computes means and second moments anew from the ring."""
    size, channels = ring.shape
    for c in range(channels):
        total = 0.0
        for i in range(size):
            if ring[i, c] == ring[i, c]:
                total += ring[i, c]
        mean = total / count[c] if count[c] else 0.0
        moment = 0.0
        for i in range(size):
            if ring[i, c] == ring[i, c]:
                moment += (ring[i, c] - mean) * (ring[i, c] - mean)
        means[c], moments[c] = mean, moment


@native()
def _push_values(
    values: Float32, steps: int, drop: float, ring: Float32, count: Any, collapses: Any, means: Float64,
    moments: Float64,
) -> int:  # fmt: skip
    """Lets a step's values [channels] into the ring, and the oldest values out of a full ring.

    Returns how many channels collapsed in the step.
    """
    collapsed = 0
    size, channels = ring.shape
    at = steps % size
    last, following = (at + size - 1) % size, (at + 1) % size
    for c in range(channels):
        x, y = values[c], ring[at, c]
        before = ring[last, c] if steps else np.float32(math.nan)
        ring[at, c] = x
        k, mean, moment = count[c], means[c], moments[c]
        fell = _falls(before, x, drop)
        collapsed += fell
        if steps >= size:
            # with a window of one step, the pair that leaves is the pair that came
            fell -= _falls(y, ring[following, c], drop)
            if y == y:
                k -= 1
                apart = y - mean
                mean = mean - apart / k if k else 0.0
                moment = moment - apart * (y - mean) if k else 0.0
        if x == x:
            k += 1
            apart = x - mean
            mean += apart / k
            moment += apart * (x - mean)
        count[c], means[c], moments[c] = k, mean, moment
        collapses[c] += fell
    if at == size - 1:
        _renew(ring, count, means, moments)
    return collapsed


@native()
def _push_costs(costs: Float32, steps: int, ring: Float32, count: Any, sums: Float64) -> None:
    """Lets a step's costs [channels] into their ring, and the oldest out of a full ring."""
    size, channels = ring.shape
    at = steps % size
    for c in range(channels):
        x, y = costs[c], ring[at, c]
        ring[at, c] = x
        if steps >= size and y == y:
            count[c] -= 1
            sums[c] -= y
        if x == x:
            count[c] += 1
            sums[c] += x
    if at == size - 1:
        for c in range(channels):
            total = 0.0
            for i in range(size):
                if ring[i, c] == ring[i, c]:
                    total += ring[i, c]
            sums[c] = total


@native()
def push_row(state: Any, place: int, values: Float32, costs: Float32, out: Float64, each: Float64) -> None:
    """Pushes a step into the state at an address, and computes its figures.

    ``out`` [RESULTS]; ``each`` [channels or 0, EACH].
    """
    n, size, steps, least = state.channels, state.size, state.steps, state.least
    wide, narrow = place + _WIDE, place + _WIDE + n * _NARROW
    rings = place + _WIDE + n * _RINGS
    means = numba.carray(address(wide), (n,), np.float64)
    moments = numba.carray(address(wide + n * 8), (n,), np.float64)
    sums = numba.carray(address(wide + n * 16), (n,), np.float64)
    count = numba.carray(address(narrow), (n,), np.int32)
    collapses = numba.carray(address(narrow + n * 4), (n,), np.int32)
    costed = numba.carray(address(narrow + n * 8), (n,), np.int32)
    ring = numba.carray(address(rings), (size, n), np.float32)
    collapsed = _push_values(values, steps, state.drop, ring, count, collapses, means, moments)
    if state.has_costs:
        cost_ring = numba.carray(address(rings + size * n * 4), (size, n), np.float32)
        _push_costs(costs, steps, cost_ring, costed, sums)
    state.steps = steps + 1
    for i in range(RESULTS):
        out[i] = 0.0
    out[COLLAPSED] = collapsed
    for c in range(n):
        cost = sums[c] / costed[c] if costed[c] else math.nan
        if costed[c]:
            out[COSTED] += 1
            out[COST] += cost
        k = count[c]
        variance = rate = math.nan
        if k >= least:
            variance, rate = max(moments[c], 0.0) / k, collapses[c] / k
            out[VALUED] += 1
            out[VARIANCE] += variance
            out[RATE] += rate
            g = variance + rate
            side = 0 if cost >= state.cost else 1
            if g >= state.genuine:
                out[GENUINE] += 1
                if costed[c]:
                    out[QUADRANTS + side] += 1
            elif g <= state.mechanical:
                out[MECHANICAL] += 1
                if costed[c]:
                    out[QUADRANTS + 2 + side] += 1
            elif state.genuine == state.genuine:
                out[TRANSITION] += 1
        if each.shape[0]:
            each[c, 0], each[c, 1] = variance, rate
            each[c, 2] = means[c] if k else math.nan
    for mean, of in ((VARIANCE, VALUED), (RATE, VALUED), (COST, COSTED)):
        out[mean] = out[mean] / out[of] if out[of] else math.nan


@native()
def _push_rows(places: Any, values: Float32, costs: Float32, out: Float64, each: Float64) -> None:
    """Pushes a step into each of the states at ``places`` [B]; ``costs`` [B, channels] or [B, 0]."""
    for b in range(places.shape[0]):
        state = numba.carray(address(places[b]), (1,), HEADER)[0]
        push_row(state, places[b], values[b], costs[b], out[b], each[b])


class HeadWindow:
    """The rolling window of some channels: heads of a model, or single figures of a reply."""

    __slots__ = ("_data", "_header", "channels", "has_costs", "place")

    def __init__(
        self,
        channels: int,
        size: int = WINDOW,
        *,
        least: int = LEAST,
        drop: float = DROP,
        costs: bool = False,
        cuts: Cuts | None = None,
    ) -> None:
        """Begins an empty window of ``size`` steps.

        ``least``: values that a variance needs; ``costs``: whether token costs are kept beside the values;
        ``cuts``: between the quadrants, which are not counted without. Raises ValueError for a size, a least
        number or a drop out of range, and for cut points of another window.
        """
        if channels < 1 or size < 1 or not 1 <= least <= size:
            raise ValueError(f"need channels >= 1 and 1 <= least <= size, got {channels}, {least}, {size}")
        if not 0 < drop < math.inf:
            raise ValueError(f"drop must be positive, got {drop}")
        if cuts is not None and cuts.window != size:
            raise ValueError(f"the cut points belong to a window of {cuts.window} steps, not of {size}")
        rings = (1 + costs) * size * channels * 4
        self._bind(np.zeros(_WIDE + channels * _RINGS + rings, dtype=np.uint8), channels, costs)
        nothing = (math.nan,) * 3
        points = nothing if cuts is None else (cuts.cost, cuts.genuine, cuts.mechanical)
        self._header[0] = (channels, size, least, 0, costs, drop, *points)

    def _bind(self, data: npt.NDArray[np.uint8], channels: int, has_costs: bool) -> None:
        self._data = data
        self._header = data[:_WIDE].view(HEADER)
        self.channels = channels
        self.has_costs = has_costs
        self.place = int(data.ctypes.data)
        """the address of the state, valid as long as it lives"""

    @property
    def steps(self) -> int:
        """Counts the steps that were pushed."""
        return int(self._header["steps"][0])

    @property
    def has_cuts(self) -> bool:
        """Tells whether the channels in each region of the plane are counted."""
        return not math.isnan(self._header["genuine"][0])

    @property
    def nbytes(self) -> int:
        """Counts the bytes of the state, which never grows."""
        return self._data.nbytes

    def copy(self) -> HeadWindow:
        """Copies the state, for a branch that continues the reply."""
        copied: HeadWindow = HeadWindow.__new__(HeadWindow)
        copied._bind(self._data.copy(), self.channels, self.has_costs)
        return copied

    def figures(self) -> Float64:
        """Returns variance, collapse rate and mean cost of each channel now, [channels, 3]; NaN for none."""
        n, least = self.channels, int(self._header["least"][0])
        wide = self._data[_WIDE : _WIDE + n * _NARROW].view(np.float64).reshape(3, n)
        narrow = self._data[_WIDE + n * _NARROW : _WIDE + n * _RINGS].view(np.int32).reshape(3, n)
        _, moments, sums = wide
        count, collapses, costed = narrow
        with np.errstate(invalid="ignore", divide="ignore"):
            k = np.where(count >= least, count, np.nan)
            cost = sums / np.where(costed > 0, costed, np.nan)
            return np.stack((np.maximum(moments, 0.0) / k, collapses / k, cost), axis=-1)


def push(
    windows: Sequence[HeadWindow], values: Float32, costs: Float32 | None = None
) -> tuple[Float64, Float64]:
    """Pushes a step into the windows of B replies, whose channels are equally many.

    ``values`` and ``costs`` float32 [B, channels], NaN where a step has none; costs are taken where a window
    keeps them. Returns float64 [B, RESULTS], by the names of the columns above, and the figures of every
    channel [B, channels, EACH] where there are few of them (at most 4), else [B, 0, EACH]. Raises ValueError
    on shapes that do not fit.
    """
    rows, channels = values.shape
    if len(windows) != rows or any(window.channels != channels for window in windows):
        raise ValueError(f"{len(windows)} windows do not fit values of shape {values.shape}")
    if costs is None:
        kept = any(window.has_costs for window in windows)
        costs = np.full(values.shape if kept else (rows, 0), np.nan, dtype=np.float32)
    elif costs.shape != values.shape:
        raise ValueError(f"costs of shape {costs.shape} do not fit values of shape {values.shape}")
    places = np.array([window.place for window in windows], dtype=np.int64)
    out = np.empty((rows, RESULTS))
    each = np.empty((rows, channels if channels <= 4 else 0, EACH))
    _push_rows(
        places,
        np.ascontiguousarray(values, dtype=np.float32),
        np.ascontiguousarray(costs, dtype=np.float32),
        out,
        each,
    )
    return out, each
