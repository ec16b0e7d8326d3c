"""One layer's attention for a batch of rows, as the native loops take it.

:class:`LayerBatch` has arrays. Threads get them as a record of their addresses, :data:`BATCH`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from .._native import native
from .._threads import address, record_type

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

BATCH: Final = record_type(
    # B, H, D, Hk, P, tokens of a page, N, K; the options; whether this is the comparison of heads
    "rows heads width kv_heads pages page columns span window attends compares "
    # addresses of the arrays
    "queries keys values page_table lengths probabilities out figures",
    "scale softcap",
)
"""the record of a LayerBatch whose pages are not transposed"""


class LayerBatch(NamedTuple):
    """One layer's attention for a batch of rows: the arrays that the loops read and fill.

    The arguments have passed :func:`check`.
    """

    queries: Float32
    """[B, H, D]"""
    keys: Float32
    """[P, Hk, page, D]; where ``transposed``, [P, Hk, D or more, page] with the keys in the first D rows"""
    values: Float32
    """[P, Hk, page, D]; not touched unless ``attends``"""
    page_table: Int32
    """[B, N]"""
    lengths: Int32
    """[B]"""
    scale: Any
    softcap: Any
    """0 for none"""
    window: int
    """how many of the last keys a query sees; 0 for all"""
    probabilities: Float32
    """[B, H, K], filled from the first key that the row sees"""
    out: Float32
    """[B, H, D], filled where ``attends``"""
    figures: Float32
    """[B, H, 4], the float fields of ``HeadStats``; :func:`attend` fills the first three of a head"""
    attends: bool
    transposed: bool


@native()
def batch_of(a: Any) -> LayerBatch:
    """Returns the LayerBatch of a record."""
    pages, per_head = (a.pages, a.kv_heads, a.page, a.width), (a.rows, a.heads, a.width)
    return LayerBatch(
        queries=numba.carray(address(a.queries), per_head, np.float32),
        keys=numba.carray(address(a.keys), pages, np.float32),
        values=numba.carray(address(a.values), pages, np.float32),
        page_table=numba.carray(address(a.page_table), (a.rows, a.columns), np.int32),
        lengths=numba.carray(address(a.lengths), (a.rows,), np.int32),
        scale=np.float32(a.scale),
        softcap=np.float32(a.softcap),
        window=a.window,
        probabilities=numba.carray(address(a.probabilities), (a.rows, a.heads, a.span), np.float32),
        out=numba.carray(address(a.out), per_head, np.float32),
        figures=numba.carray(address(a.figures), (a.rows, a.heads, 4), np.float32),
        attends=a.attends != 0,
        transposed=False,
    )
