"""The sampler's figures in the words of the wire: a row for each token and a summary for each choice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel

from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.layer_entropy import expansion_count
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy

from .engine.types import BranchRecord, Request, Token, TokenDetail
from .genuineness import genuineness_summary
from .protocol.responses import (
    BranchRow,
    CandidateRow,
    DetailRow,
    LayerEntropySummary,
    PhaseSummary,
    ProbableRow,
    SignalStatistic,
    SignalStatistics,
    Summary,
    TokenRow,
)
from .vocabulary import Vocabulary

STRATEGY_LABELS: Final = {strategy: strategy.label for strategy in Strategy}
"""strategy -> its name on the wire"""
_LABELS: Final = tuple(STRATEGY_LABELS.values())
"""the same by the strategies' numbers: an enumeration's hash is a call of Python"""
_INFINITE: Final = math.inf


def token_row(
    index: int, token: Token, vocabulary: Vocabulary, *, eos: bool, stop: bool, full: bool = False
) -> TokenRow:
    """Returns one row of ``choices[i].entropick.tokens``; a signal that could not be measured is absent.

    ``full``: with the branches that opened at the token.
    """
    used, strategy = token.parameters, token.strategy
    # a token is written for every client that watches: a dictionary costs a fifth of a checked model
    row: TokenRow = {
        "index": index,
        "token": vocabulary.labels[token.token_id],
        "token_id": token.token_id,
        "strategy": None if strategy is None else _LABELS[strategy],
        "forced": token.forced,
        "parameters": None
        if used is None
        else {
            "temperature": used.temperature,
            "top_p": used.top_p,
            "top_k": used.top_k,
            "min_p": used.min_p,
            "n_candidates": used.n_candidates,
        },
        "signals": {
            name: value
            for name, value in zip(SIGNAL_NAMES, token.signals, strict=True)
            # no NaN lies between the infinities
            if value is not None and -_INFINITE < value < _INFINITE
        },
    }
    if token.only_choice:
        row["only_choice"] = True
    if eos:
        row["eos"] = True
    if stop:
        row["stop"] = True
    if token.layer_entropy:
        row["layer_entropy"] = {
            str(layer): bits for layer, bits in token.layer_entropy if math.isfinite(bits)
        }
    if token.detail is not None:
        row["detail"] = _detail(token.detail)
        row["candidates"] = [
            CandidateRow(
                token=vocabulary.labels[c.token_id], token_id=c.token_id, logprob=c.logprob, score=c.score
            )
            for c in token.detail.candidates
        ]
    if token.most_probable:
        row["most_probable"] = [
            ProbableRow(token=vocabulary.labels[p.token_id], **p._asdict()) for p in token.most_probable
        ]
    if full and token.branches:
        row["branches"] = [branch_row(branch, vocabulary) for branch in token.branches]
    return row


def branch_row(branch: BranchRecord, vocabulary: Vocabulary) -> BranchRow:
    """Returns a branch of a rollout on the wire."""
    return BranchRow(
        text=vocabulary.text(branch.token_ids),
        token_ids=list(branch.token_ids),
        score=branch.score if math.isfinite(branch.score) else None,
        chosen=branch.chosen,
    )


def _detail(detail: TokenDetail) -> DetailRow:
    row = DetailRow(
        layers=list(detail.layers),
        attention_entropy=[list(heads) for heads in detail.attention_entropy],
        interaction_strength=[list(heads) for heads in detail.interaction_strength],
        attention_to_previous=[list(heads) for heads in detail.attention_to_previous],
        per_layer={name: list(values) for name, values in detail.per_layer.items()},
    )
    if detail.genuineness is not None:
        row.genuineness = [list(heads) for heads in detail.genuineness]
    if detail.token_cost is not None:
        row.token_cost = [list(heads) for heads in detail.token_cost]
    if detail.quadrant is not None:
        row.quadrant = [list(heads) for heads in detail.quadrant]
    return row


def summarize(
    request: Request,
    tokens: Sequence[Token],
    profile: str | None,
    branch_tokens: int,
    cuts: Cuts | None = None,
) -> Summary:
    """Returns one choice at a glance; a signal that was never measured is absent.

    Means and maxima leave out the tokens that had no alternative: the model did not choose them.
    ``profile``: id of the calibration profile in force; ``branch_tokens``: tokens of branches that lost;
    ``cuts``: the profile's cut points of genuineness.
    """
    adaptive = request.policy.policy == "entropix"
    summary = Summary(
        seed=request.sampling.seed,
        choice=request.choice,
        policy=request.policy.policy,
        preset=request.policy.preset if adaptive else None,
        profile=profile,
        signals=_statistics(tokens),
        strategies=_strategies(tokens),
        forced_tokens=sum(token.forced for token in tokens),
        branch_tokens=branch_tokens,
    )
    if only := sum(token.only_choice for token in tokens):
        summary.only_choice_tokens = only
    if (watched := genuineness_summary(request, tokens, cuts)) is not None:
        summary.genuineness = watched
    if (profile_of_layers := layer_entropy_summary(tokens)) is not None:
        summary.layer_entropy = profile_of_layers
    return summary


def layer_entropy_summary(tokens: Sequence[Token]) -> LayerEntropySummary | None:
    """Returns the mean entropy of each layer, and how often it rises and falls; None where none was measured.

    A token of which some layer's entropy is not finite is left out.
    """
    measured = [
        token.layer_entropy
        for token in tokens
        if token.layer_entropy and all(math.isfinite(bits) for _, bits in token.layer_entropy)
    ]
    if not measured:
        return None
    count = len(measured)
    changes = [expansion_count([bits for _, bits in pairs]) for pairs in measured]
    return LayerEntropySummary(
        tokens=count,
        mean={
            str(column[0][0]): math.fsum(bits for _, bits in column) / count
            for column in zip(*measured, strict=True)
        },
        expansions=sum(rises for rises, _ in changes) / count,
        prunings=sum(falls for _, falls in changes) / count,
    )


def phase_summary(tokens: Sequence[Token]) -> PhaseSummary:
    """Returns a part of a reply at a glance: its reasoning, or the rest."""
    return PhaseSummary(tokens=len(tokens), signals=_statistics(tokens), strategies=_strategies(tokens))


def _statistics(tokens: Sequence[Token]) -> BaseModel:
    statistics = {}
    columns = zip(*(token.signals for token in tokens if not token.only_choice), strict=True)
    # without tokens there are no columns
    for name, column in zip(SIGNAL_NAMES, columns, strict=False):
        values = [value for value in column if value is not None and math.isfinite(value)]
        if values:
            statistics[name] = SignalStatistic(mean=math.fsum(values) / len(values), max=max(values))
    return SignalStatistics(**statistics)


def _strategies(tokens: Sequence[Token]) -> dict[str, int]:
    strategies = Counter(token.strategy for token in tokens)
    return {label: strategies[strategy] for strategy, label in STRATEGY_LABELS.items()}
