"""The genuineness of a choice at its end, from the series of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from entropick_sampler.genuineness.counts import AXIS
from entropick_sampler.genuineness.quadrants import SEED_CUTS, Cuts
from entropick_sampler.genuineness.reference import WINDOW, Pull, elaboration_pull
from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Request, Token
from .protocol.responses import GenuinenessSummary, PullRow

_SCORE: Final = SIGNAL_NAMES.index("genuineness")
_SEED_SCORE: Final = SIGNAL_NAMES.index("genuineness_seed")
WATCHED: Final = SIGNAL_NAMES.index("entropy_window_variance")
"""the column of a signal that every watched choice has"""


def genuineness_summary(
    request: Request, tokens: Sequence[Token], cuts: Cuts | None = None
) -> GenuinenessSummary | None:
    """Returns a choice's genuineness; None where the engine measured none, or the request wants none.

    ``cuts``: the cut points of the profile; the form ``seed`` has its own.
    """
    asked = request.policy.genuineness
    if asked is False or all(token.signals[WATCHED] is None for token in tokens):
        return None
    summary = GenuinenessSummary(
        form="seed" if asked == "seed" else "normalised",
        window=WINDOW,
        score=tokens[-1].signals[score_column(request)],
    )
    counts = tokens[-1].counts
    if counts is not None:
        summary.regions = _shares(dict(zip(AXIS, counts[:3], strict=True)))
        if any(counts[3:]):
            summary.quadrants = _shares(counts.by_region())
    if (pull := pull_of(request, tokens)) is not None:
        summary.pull = PullRow(start=pull.start, end=pull.end, delta=pull.delta)
        if (cut := pull_cut(request, cuts)) is not None:
            summary.pull.pulled = pull.delta < cut
    return summary


def score_column(request: Request) -> int:
    """Returns the column of G in the form that a request asked for."""
    return _SEED_SCORE if request.policy.genuineness == "seed" else _SCORE


def pull_of(request: Request, tokens: Sequence[Token]) -> Pull | None:
    """Computes the elaboration pull of a choice; None for fewer than five scores."""
    column = score_column(request)
    return elaboration_pull([score for token in tokens if (score := token.signals[column]) is not None])


def pull_cut(request: Request, cuts: Cuts | None) -> float | None:
    """Returns the cut point of the pull in the form that a request asked for; None where none is known."""
    of_form = SEED_CUTS if request.policy.genuineness == "seed" else cuts
    return None if of_form is None else of_form.pull


def _shares(counts: dict[str, int]) -> dict[str, float]:
    """Returns each count's share of all, 0 for all of none."""
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}
