"""The genuineness of a choice that ended, as the metrics count it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from entropick_sampler.genuineness.quadrants import Cuts, counted
from entropick_sampler.signals import SIGNAL_NAMES

from ..engine.types import Request, Token
from ..genuineness import WATCHED, pull_cut, pull_of, score_column
from ..metrics import GenuinenessFigures

_COST: Final = SIGNAL_NAMES.index("token_cost")
_RATE: Final = SIGNAL_NAMES.index("collapse_rate")


def genuineness_at_end(
    request: Request, tokens: Sequence[Token], cuts: Cuts | None
) -> GenuinenessFigures | None:
    """Returns the figures of a choice that the metrics count at its end; None where none were measured."""
    if request.policy.genuineness is False or not tokens:
        return None
    signals = tokens[-1].signals
    if signals[WATCHED] is None:
        return None
    heads: Counter[str] = Counter()
    for token in counted(tokens):
        if token.counts is not None:
            heads.update(token.counts.by_region())
    pull, cut = pull_of(request, tokens), pull_cut(request, cuts)
    return GenuinenessFigures(
        signals[score_column(request)],
        signals[_COST],
        signals[_RATE],
        dict(heads),
        pull is not None and cut is not None and pull.delta < cut,
    )
