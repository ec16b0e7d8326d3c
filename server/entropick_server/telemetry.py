"""What the sampler saw, in the words of the wire: a row for each token and a summary for each choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from entropick_sampler.params import PolicyConfig, Strategy
from entropick_sampler.signals import SIGNAL_NAMES

from .engine.base import Tokenizer
from .engine.types import BranchRecord, Token, TokenDetail, TokenParameters
from .protocol.responses import (
    BranchRow,
    CandidateRow,
    DetailRow,
    ParameterValues,
    SignalStatistic,
    SignalStatistics,
    SignalValues,
    Summary,
    TokenRow,
)


def token_label(tokenizer: Tokenizer, token_id: int) -> str:
    """A token alone, readable: its text, a special token's name, or OpenAI's form for part of a character."""
    data = tokenizer.token_bytes(token_id)
    if data is None:
        return tokenizer.decode([token_id], skip_special_tokens=False)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def measured(token: Token) -> dict[str, float]:
    """Signal name -> value, for what could be measured."""
    pairs = zip(SIGNAL_NAMES, token.signals, strict=True)
    return {name: value for name, value in pairs if value is not None and math.isfinite(value)}


def token_row(index: int, token: Token, tokenizer: Tokenizer, *, eos: bool, stop: bool) -> TokenRow:
    """One row of ``choices[i].entropick.tokens``."""
    row = TokenRow(
        index=index,
        token=token_label(tokenizer, token.token_id),
        token_id=token.token_id,
        strategy=None if token.strategy is None else token.strategy.label,
        forced=token.forced,
        parameters=None if token.parameters is None else _parameters(token.parameters),
        signals=SignalValues(**measured(token)),
    )
    if eos:
        row.eos = True
    if stop:
        row.stop = True
    if token.detail is not None:
        row.detail = _detail(token.detail)
        row.candidates = [
            CandidateRow(
                token=token_label(tokenizer, c.token_id),
                token_id=c.token_id,
                logprob=c.logprob,
                score=c.score,
            )
            for c in token.detail.candidates
        ]
    if token.branches:
        row.branches = [_branch(branch, tokenizer) for branch in token.branches]
    return row


def _branch(branch: BranchRecord, tokenizer: Tokenizer) -> BranchRow:
    # bytes, because a tokenizer's decode may trim a text that begins in the middle
    data = b"".join(tokenizer.token_bytes(i) or b"" for i in branch.token_ids)
    return BranchRow(
        text=data.decode("utf-8", "replace"),
        token_ids=list(branch.token_ids),
        score=branch.score,
        chosen=branch.chosen,
    )


def _parameters(used: TokenParameters) -> ParameterValues:
    return ParameterValues(
        temperature=used.temperature,
        top_p=used.top_p,
        top_k=used.top_k,
        min_p=used.min_p,
        n_candidates=used.n_candidates,
    )


def _detail(detail: TokenDetail) -> DetailRow:
    return DetailRow(
        layers=list(detail.layers),
        attention_entropy=[list(heads) for heads in detail.attention_entropy],
        interaction_strength=[list(heads) for heads in detail.interaction_strength],
        per_layer={name: list(values) for name, values in detail.per_layer.items()},
    )


def summarize(
    tokens: Sequence[Token],
    seed: int,
    policy: PolicyConfig,
    profile: str | None,
    branch_tokens: int = 0,
    choice: int = 0,
) -> Summary:
    """One choice at a glance; a signal that was never measured is absent."""
    columns: dict[str, list[float]] = {}
    strategies = {strategy.label: 0 for strategy in Strategy}
    for token in tokens:
        for name, value in measured(token).items():
            columns.setdefault(name, []).append(value)
        if token.strategy is not None:
            strategies[token.strategy.label] += 1
    statistics = {
        name: SignalStatistic(mean=math.fsum(values) / len(values), max=max(values))
        for name, values in columns.items()
    }
    adaptive = policy.policy == "entropix"
    return Summary(
        seed=seed,
        choice=choice,
        policy=policy.policy,
        preset=policy.preset if adaptive else None,
        profile=profile,
        signals=SignalStatistics(**statistics),
        strategies=strategies,
        forced_tokens=sum(token.forced for token in tokens),
        branch_tokens=branch_tokens,
    )
