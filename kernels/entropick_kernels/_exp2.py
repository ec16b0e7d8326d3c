"""2^y in float32 for the native loops."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from ._native import native

LOG2_E: Final = np.float32(1.0 / math.log(2.0))
LOWEST: Final = np.float32(-126.0)
"""exponents are raised to this: 2^-126 is the smallest normal float32"""

_ROUND: Final = np.float32(1.5 * 2**23)
_ONE: Final = np.float32(1.0)
# 2^f on [-0.5, 0.5], the coefficients of exp2f in S. Moshier's Cephes
_C1: Final = np.float32(6.931472028550421e-1)
_C2: Final = np.float32(2.402264791363012e-1)
_C3: Final = np.float32(5.550332471162809e-2)
_C4: Final = np.float32(9.618437357674640e-3)
_C5: Final = np.float32(1.339887440266574e-3)
_C6: Final = np.float32(1.535336188319500e-4)


@native("contract")
def exp2(y: Any) -> Any:
    """Returns 2^y of a float32 y <= 0, at least 2^-126; a NaN stays a NaN.

    It has no branches, so that a loop that calls it can be vectorised.
    """
    y = LOWEST if y < LOWEST else y
    shifted = np.float32(y + _ROUND)  # the low bits now hold round(y)
    f = np.float32(y - np.float32(shifted - _ROUND))
    p = np.float32(_C6 * f + _C5)
    p = np.float32(p * f + _C4)
    p = np.float32(p * f + _C3)
    p = np.float32(p * f + _C2)
    p = np.float32(p * f + _C1)
    p = np.float32(p * f + _ONE)
    exponent = np.int32(np.int32(shifted.view(np.int32) + np.int32(127)) << np.int32(23))
    return np.float32(p * exponent.view(np.float32))
