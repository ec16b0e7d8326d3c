"""The genuineness of a choice at its end, from the series of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.genuineness.reference import WINDOW, elaboration_pull
from entropick_sampler.genuineness.reply import HeadCounts
from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Request, Token
from .protocol.responses import GenuinenessSummary, PullRow

_SCORE: Final = SIGNAL_NAMES.index("genuineness")
_SEED_SCORE: Final = SIGNAL_NAMES.index("genuineness_seed")
_WATCHED: Final = SIGNAL_NAMES.index("entropy_window_variance")
REGIONS: Final = HeadCounts._fields[:3]
"""the names of the regions of the axis of G"""


def genuineness_summary(request: Request, tokens: Sequence[Token]) -> GenuinenessSummary | None:
    """Returns a choice's genuineness; None where the engine measured none, or the request wants none."""
    asked = request.policy.genuineness
    column = _SEED_SCORE if asked == "seed" else _SCORE
    scores = [score for token in tokens if (score := token.signals[column]) is not None]
    if asked is False or not (scores or any(token.signals[_WATCHED] is not None for token in tokens)):
        return None
    summary = GenuinenessSummary(
        form="seed" if asked == "seed" else "normalised",
        window=WINDOW,
        score=tokens[-1].signals[column],
    )
    counts = tokens[-1].counts
    if counts is not None:
        summary.regions = _shares(dict(zip(REGIONS, counts[:3], strict=True)))
        if any(counts[3:]):
            in_plane = {Quadrant(i).label: n for i, n in enumerate((*counts[3:], counts.transition))}
            summary.quadrants = _shares(in_plane)
    if (pull := elaboration_pull(scores)) is not None:
        summary.pull = PullRow(start=pull.start, end=pull.end, delta=pull.delta)
    return summary


def _shares(counts: dict[str, int]) -> dict[str, float]:
    """Returns each count's share of all, 0 for all of none."""
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}
