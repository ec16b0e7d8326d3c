"""The genuineness of the monitored layers over the replies that run, for the gauges of either engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from .types import WatchedLayers

if TYPE_CHECKING:
    # it needs numba, which a vLLM worker must not load early
    from entropick_sampler.genuineness.reply import ReplyWindows

_EVERY: Final = 1.0
"""seconds between two reports of the layers"""


class LayerGauges:
    """The means by layer over some replies, at most once a second."""

    def __init__(self) -> None:
        self._told = -math.inf

    def now(
        self, monitored: tuple[int, ...], now: float, running: Callable[[], Sequence[ReplyWindows]]
    ) -> WatchedLayers | None:
        """Returns the means over the replies that run, None too soon after the last and where none runs.

        ``monitored``: the numbers of the layers; ``now``: time.monotonic(); ``running``: finds the windows of
        the replies.
        """
        if now < self._told + _EVERY or not (windows := running()):
            return None
        self._told = now
        figures = np.array([of_reply.head_figures() for of_reply in windows])
        by_layer = figures.reshape(len(figures), 2, len(monitored), -1).transpose(1, 2, 0, 3)
        score, cost = by_layer.reshape(2, len(monitored), -1)
        return WatchedLayers(monitored, _means(score), _means(cost))


def _means(figures: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    """Returns the mean of each line's known figures, None where a line has none."""
    known = [line[np.isfinite(line)] for line in figures]
    return tuple(float(line.mean()) if line.size else None for line in known)
