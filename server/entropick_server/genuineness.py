"""The genuineness of a choice at its end, from the series of its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from entropick_sampler.genuineness.counts import AXIS
from entropick_sampler.genuineness.quadrants import SEED_CUTS, Cuts, counted
from entropick_sampler.genuineness.reference import WINDOW, Pull, elaboration_pull
from entropick_sampler.signals import SIGNAL_NAMES

from .engine.types import Request, Token
from .metrics import GenuinenessFigures
from .protocol.responses import GenuinenessSummary, PullRow

_SCORE: Final = SIGNAL_NAMES.index("genuineness")
_SEED_SCORE: Final = SIGNAL_NAMES.index("genuineness_seed")
_COST: Final = SIGNAL_NAMES.index("token_cost")
_RATE: Final = SIGNAL_NAMES.index("collapse_rate")
_WATCHED: Final = SIGNAL_NAMES.index("entropy_window_variance")


def genuineness_summary(
    request: Request, tokens: Sequence[Token], cuts: Cuts | None = None
) -> GenuinenessSummary | None:
    """Returns a choice's genuineness; None where the engine measured none, or the request wants none.

    ``cuts``: the cut points of the profile; the form ``seed`` has its own.
    """
    asked = request.policy.genuineness
    if asked is False or all(token.signals[_WATCHED] is None for token in tokens):
        return None
    summary = GenuinenessSummary(
        form="seed" if asked == "seed" else "normalised",
        window=WINDOW,
        score=tokens[-1].signals[_column(request)],
    )
    counts = tokens[-1].counts
    if counts is not None:
        summary.regions = _shares(dict(zip(AXIS, counts[:3], strict=True)))
        if any(counts[3:]):
            summary.quadrants = _shares(counts.by_region())
    if (pull := _pull(request, tokens)) is not None:
        summary.pull = PullRow(start=pull.start, end=pull.end, delta=pull.delta)
        if (cut := _pull_cut(request, cuts)) is not None:
            summary.pull.pulled = pull.delta < cut
    return summary


def genuineness_at_end(
    request: Request, tokens: Sequence[Token], cuts: Cuts | None
) -> GenuinenessFigures | None:
    """Returns the figures of a choice that the metrics count at its end; None where none were measured."""
    if request.policy.genuineness is False or not tokens:
        return None
    signals = tokens[-1].signals
    if signals[_WATCHED] is None:
        return None
    heads: Counter[str] = Counter()
    for token in counted(tokens):
        if token.counts is not None:
            heads.update(token.counts.by_region())
    pull, cut = _pull(request, tokens), _pull_cut(request, cuts)
    return GenuinenessFigures(
        signals[_column(request)],
        signals[_COST],
        signals[_RATE],
        dict(heads),
        pull is not None and cut is not None and pull.delta < cut,
    )


def _column(request: Request) -> int:
    """Returns the column of G in the form that a request asked for."""
    return _SEED_SCORE if request.policy.genuineness == "seed" else _SCORE


def _pull(request: Request, tokens: Sequence[Token]) -> Pull | None:
    column = _column(request)
    return elaboration_pull([score for token in tokens if (score := token.signals[column]) is not None])


def _pull_cut(request: Request, cuts: Cuts | None) -> float | None:
    of_form = SEED_CUTS if request.policy.genuineness == "seed" else cuts
    return None if of_form is None else of_form.pull


def _shares(counts: dict[str, int]) -> dict[str, float]:
    """Returns each count's share of all, 0 for all of none."""
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}
