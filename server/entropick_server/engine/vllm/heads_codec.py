"""The heads of a row as bytes on the side channel: visible keys, entropies, and token costs where wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from entropick_kernels.attention_stats.costs import COST_FIGURES

from ..tokens import HeadEntropies


def kind_of(heads: HeadEntropies | None) -> int:
    """Returns the kind of a row: 0 without heads, 1 with heads, 2 with their token costs too."""
    return 0 if heads is None else 1 if heads.costs is None else 2


def parts_of(heads: HeadEntropies) -> Iterator[npt.NDArray[Any]]:
    """Yields the arrays of a row in the order in which they are written."""
    yield heads.keys
    yield heads.entropy
    if heads.costs is not None:
        yield heads.costs


class HeadsReader:
    """A reader of rows that follow each other from an offset on; ``at``: where the next begins."""

    def __init__(self, data: bytes, at: int, layers: int, heads: int) -> None:
        self._data = data
        self._layers = layers
        self._heads = heads
        self.at = at

    def read(self, kind: int) -> HeadEntropies | None:
        """Reads the next row, of a kind that :func:`kind_of` told. Raises ValueError where it is cut."""
        if not kind:
            return None
        keys = self._take(np.int64, self._layers)
        entropy = self._take(np.float32, self._layers, self._heads)
        costs = self._take(np.float32, self._layers, self._heads, COST_FIGURES) if kind > 1 else None
        return HeadEntropies(entropy, keys, costs)

    def _take(self, dtype: Any, *shape: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self._data, dtype, int(np.prod(shape)), self.at).reshape(shape)
        self.at += found.nbytes
        # a copy: torch wants memory that may be written
        return found.copy()
