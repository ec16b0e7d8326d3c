"""From a row of the side channel to the :class:`~..types.Token` that the embedded engine would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from entropick_sampler.params import Strategy
from entropick_sampler.signals import ATTENTION_SIGNALS, SIGNAL_NAMES

from ..types import Candidate, Token, TokenDetail, TokenParameters
from .side_channel import Figures


def token_of(token_id: int, figures: Figures | None, replay: bool, layers: Sequence[int]) -> Token:
    """The emitted token with what was measured of it; without figures everything but the token is absent."""
    if figures is None:
        return Token(token_id, math.nan, (None,) * len(SIGNAL_NAMES), None, None)
    mark, line = figures.mark, figures.row
    return Token(
        line.token,
        line.logprob,
        line.signals,
        Strategy.CLARIFY if mark.forced and not replay else line.strategy,
        TokenParameters(line.temperature, line.top_p, line.top_k, line.min_p, line.n_candidates),
        mark.forced,
        mark.tops,
        _detail(mark.detail, layers, line.candidates),
    )


def _detail(
    detail: Mapping[str, Any] | None, layers: Sequence[int], candidates: Sequence[tuple[int, float, float]]
) -> TokenDetail | None:
    if detail is None:
        return None
    columns = zip(*detail["per_layer"], strict=True)
    return TokenDetail(
        tuple(layers),
        tuple(map(tuple, detail["entropy"])),
        tuple(map(tuple, detail["scores"])),
        {signal.name: tuple(column) for signal, column in zip(ATTENTION_SIGNALS, columns, strict=True)},
        tuple(Candidate(*candidate) for candidate in candidates),
    )
