"""Native scans of one row of logits."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ._native import native

Float32 = npt.NDArray[np.float32]

_CHUNK: Final = 1024
_ZERO: Final = np.float32(0.0)
_NEGATIVE: Final = np.int32(0x7FFFFFFF)
_SIGN: Final = np.int32(31)
_LEAST: Final = np.int32(-(2**31))


@native()
def row_top(x: Float32) -> int:
    """Returns the index of the largest element of x [V], the lowest on ties.

    A NaN without its sign bit counts as the largest; one with it as the smallest, and may be passed over.

    Floats are compared as integers of the same order: that loop vectorises, a float maximum does not.
    """
    best, where = _LEAST, 0
    for lo in range(0, x.shape[0], _CHUNK):
        top = _LEAST
        for i in range(lo, min(lo + _CHUNK, x.shape[0])):
            bits = np.float32(x[i] + _ZERO).view(np.int32)  # -0 + 0 = +0: equal zeros get equal bits
            key = np.int32(bits ^ np.int32(np.int32(bits >> _SIGN) & _NEGATIVE))
            top = max(top, key)
        if top > best:
            best, where = top, lo
    index = where
    for i in range(where, min(where + _CHUNK, x.shape[0])):
        if math.isnan(x[i]):
            return i
        if x[i] > x[index]:
            index = i
    return index


@native()
def first_nan(x: Float32) -> int:
    """Returns the index of the first NaN of x [V], -1 where there is none."""
    for i in range(x.shape[0]):
        if math.isnan(x[i]):
            return i
    return -1
