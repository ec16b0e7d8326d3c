"""From the packed figures of a step to the :class:`~.types.Token` that every engine emits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats
from entropick_sampler.adjustments import Adjustments
from entropick_sampler.genuineness.counts import WindowStep
from entropick_sampler.most_probable import ProbableToken, probable_tokens
from entropick_sampler.packed import TokenRow
from entropick_sampler.params import PolicyConfig
from entropick_sampler.signals import ATTENTION_SIGNALS, SIGNAL_NAMES, WINDOW_SIGNALS
from entropick_sampler.strategy import Strategy

from .types import Candidate, Token, TokenDetail, TokenParameters

if TYPE_CHECKING:
    # it needs numba, which a vLLM worker must not load early
    from entropick_sampler.genuineness.reply import ReplyWindows

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")
_SURPRISAL = SIGNAL_NAMES.index("surprisal")
_EXCESS = SIGNAL_NAMES.index("excess_surprisal")
NO_WINDOW: Final = WindowStep((None,) * len(WINDOW_SIGNALS))
"""the windows of a row that nothing watches"""
TopLogprobs = tuple[tuple[int, float], ...]
"""token ids with their log probabilities (nats), the most probable first"""


class AttentionDetail(NamedTuple):
    """One row's attention figures by monitored layer: ``entropy`` (bits), ``scores`` and ``previous`` [L][H],
    ``per_layer`` [L][7] in the order of ATTENTION_SIGNALS.

    None in the place of a figure that does not exist: the query saw no previous key."""

    entropy: Sequence[Sequence[float]]
    scores: Sequence[Sequence[float]]
    previous: Sequence[Sequence[float | None]]
    per_layer: Sequence[Sequence[float | None]]


class HeadEntropies(NamedTuple):
    """The inputs of the windows of genuineness: ``entropy`` float32 [L, H], bits, and ``keys`` int64 [L].

    ``keys``: how many keys the row's query sees in each monitored layer. ``costs`` float32 [L, H, 4]: token
    costs, None where they are not wanted.
    """

    entropy: npt.NDArray[np.float32]
    keys: npt.NDArray[np.int64]
    costs: npt.NDArray[np.float32] | None = None


def token_of(
    row: TokenRow,
    *,
    forced: bool,
    replayed: bool,
    tops: TopLogprobs = (),
    detail: TokenDetail | None = None,
    window: WindowStep = NO_WINDOW,
    probable: tuple[ProbableToken, ...] = (),
    layer_entropy: tuple[tuple[int, float], ...] = (),
    only_choice: bool = False,
) -> Token:
    """Makes the emitted token of a row.

    ``forced``: it was given, not drawn; ``replayed``: by the request itself (teacher forcing), not by a
    clarifying text; ``only_choice``: masks left no other token.
    """
    return Token(
        row.token,
        row.logprob,
        row.signals + window.values,
        Strategy.CLARIFY if forced and not replayed else row.strategy,
        TokenParameters(row.temperature, row.top_p, row.top_k, row.min_p, row.n_candidates),
        forced,
        tops,
        detail,
        most_probable=probable,
        counts=window.counts,
        layer_entropy=layer_entropy,
        only_choice=only_choice,
        collapsed=window.collapsed,
    )


def token_without_figures(token_id: int) -> Token:
    """Makes the token of which an engine lost every figure: everything but its id is absent."""
    return Token(token_id, math.nan, (None,) * len(SIGNAL_NAMES), None, None)


def drawn_beside(token: Token, token_id: int, logprob: float, score: float) -> Token:
    """Makes the token that was drawn once from the distribution of ``token``, for a branch to begin with."""
    emitted = min(logprob, 0.0)
    signals = list(token.signals)
    surprisal, entropy = abs(emitted / math.log(2.0)), token.signals[_ENTROPY]
    signals[_SURPRISAL] = surprisal
    signals[_EXCESS] = None if entropy is None else surprisal - entropy
    detail = token.detail
    return replace(
        token,
        token_id=token_id,
        logprob=emitted,
        signals=tuple(signals),
        parameters=token.parameters and replace(token.parameters, n_candidates=1),
        detail=detail and replace(detail, candidates=(Candidate(token_id, logprob, score),)),
    )


def top_logprobs(
    logits: Tensor, wanted: Mapping[int, int], normaliser: Sequence[tuple[float, float]]
) -> dict[int, TopLogprobs]:
    """Finds the most probable tokens of the measured distribution, for the rows that ask.

    ``logits`` [B, V]; ``wanted``: row -> how many; ``normaliser``: of each wanted row the largest logit and
    ln z, as its emitted token used them, so that the two log probabilities agree to the bit. A row whose mask
    leaves fewer tokens gets these.
    """
    if not wanted:
        return {}
    chosen = select_rows(logits, list(wanted))
    exact = torch.promote_types(logits.dtype, torch.float32)
    best = chosen.to(exact).topk(min(max(wanted.values()), chosen.shape[1]))
    shift = torch.tensor(normaliser, dtype=exact).to(logits.device)
    logprobs = (best.values - shift[:, :1] - shift[:, 1:]).clamp_max(0)
    return {
        row: tuple([(i, p) for i, p in zip(ids[:count], values[:count], strict=True) if p > -math.inf])
        for (row, count), ids, values in zip(
            wanted.items(), best.indices.tolist(), logprobs.tolist(), strict=True
        )
    }


def most_probable_tokens(
    logits: Tensor,
    rows: Sequence[TokenRow],
    wanted: Mapping[int, PolicyConfig],
    adjustments: Adjustments | None = None,
) -> dict[int, tuple[ProbableToken, ...]]:
    """Finds the most probable tokens before and after the sampler, for the rows that ask.

    ``logits`` [B, V], which are copied to the host for these rows; ``rows``: all rows of the step;
    ``wanted``: number of a row that asks -> its request's policy; ``adjustments``: of the step, whose masks
    the logits have already.
    """
    if not wanted:
        return {}
    chosen = select_rows(logits, list(wanted)).to(torch.float32).cpu().numpy()
    return {
        row: probable_tokens(
            x,
            rows[row],
            policy.branch.width - 1 if policy.branch else 0,
            None if adjustments is None else adjustments.penalised(row, x),
        )
        for (row, policy), x in zip(wanted.items(), chosen, strict=True)
    }


def attention_details(
    heads: HeadStats, by_layer: Tensor, wanted: Sequence[int]
) -> dict[int, AttentionDetail]:
    """Copies the attention figures of the wanted rows to the host.

    ``heads``: fields [L, B, H]; ``by_layer`` [L, B, 7].
    """
    if not wanted:
        return {}
    figures = (heads.entropy, heads.mean_abs_score, heads.previous, by_layer)
    entropy, scores, previous, layers = (
        select_rows(figure.transpose(0, 1), wanted).tolist() for figure in figures
    )
    return {
        row: AttentionDetail(*of_row)
        for row, *of_row in zip(
            wanted, entropy, scores, map(_none_for_nan, previous), map(_none_for_nan, layers), strict=True
        )
    }


def _none_for_nan(rows: list[list[float]]) -> list[list[float | None]]:
    """Puts None in the place of every NaN."""
    return [[None if math.isnan(x) else x for x in row] for row in rows]


def token_detail(
    attention: AttentionDetail,
    layers: Sequence[int],
    candidates: Sequence[tuple[int, float, float]],
    windows: ReplyWindows | None = None,
) -> TokenDetail:
    """Makes the detail that telemetry ``full`` adds to a token.

    ``layers``: the numbers of the monitored layers; ``windows``: of the reply, behind the token's step.
    """
    columns = zip(*attention.per_layer, strict=True)
    detail = TokenDetail(
        tuple(layers),
        tuple(map(tuple, attention.entropy)),
        tuple(map(tuple, attention.scores)),
        tuple(map(tuple, attention.previous)),
        {signal.name: tuple(column) for signal, column in zip(ATTENTION_SIGNALS, columns, strict=True)},
        tuple(Candidate(*candidate) for candidate in candidates),
    )
    return detail if windows is None else with_windows(detail, windows)


def with_windows(detail: TokenDetail, windows: ReplyWindows) -> TokenDetail:
    """Adds the heads' genuineness to the detail of a token, behind whose step the windows stand."""
    layers = len(detail.layers)
    genuineness, token_cost = (
        tuple(map(tuple, _none_for_nan(figures.reshape(layers, -1).tolist())))
        for figures in windows.head_figures()
    )
    quadrant = None
    if (regions := windows.head_regions()) is not None:
        heads = len(regions) // layers
        quadrant = tuple(tuple(regions[i : i + heads]) for i in range(0, len(regions), heads))
    return replace(
        detail,
        genuineness=genuineness,
        token_cost=token_cost if windows.heads.has_costs else None,
        quadrant=quadrant,
    )


def select_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Picks rows of a tensor along its first axis."""
    return tensor.index_select(0, torch.tensor(list(rows), device=tensor.device))
