"""Native loops that rank the logits of a row: how far down a token stands, and which tokens stand highest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import native

Float32 = npt.NDArray[np.float32]


@native()
def rank_of(row: Float32, token: int) -> int:
    """Counts the tokens of row [V] that are at least as probable as ``token``: 1 of the most probable."""
    own, rank = row[token], 0
    for i in range(row.shape[0]):
        if row[i] >= own:
            rank += 1
    return rank


@native()
def top_of(row: Float32, ids: Any, logits: Float32) -> None:
    """Sets ids int32 [K] to the K tokens of row [V] with the largest logits, the largest first; K <= V.

    Of equal logits the lower id comes first. ``logits`` [K] are theirs.
    """
    count, size = 0, ids.shape[0]
    if size == 0:
        return
    for i in range(row.shape[0]):
        x = row[i]
        if count == size and not x > logits[size - 1]:
            continue
        at = min(count, size - 1)
        while at > 0 and logits[at - 1] < x:
            ids[at], logits[at] = ids[at - 1], logits[at - 1]
            at -= 1
        ids[at], logits[at] = i, x
        count = min(count + 1, size)
