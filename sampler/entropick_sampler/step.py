"""One sampling step for a batch: logits and attention statistics in, tokens and their telemetry out.

Measure -> decide -> filter and draw. No engine knowledge: rows are sequences, positions count generated
tokens from 0. Everything stays on the logits' device until :meth:`StepResult.pack` is copied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from entropick_kernels.logits_stats import LogitsStats, logits_stats
from entropick_kernels.sample import draw, philox_uniform

from .params import FIXED_BASE, SEED_PARAMS, STRATEGY_OFF, PolicyConfig, SamplingParams, Strategy, resolve
from .policy import Decision, PolicyRows, PolicyState, decide
from .profile import Profile
from .score import score_candidates
from .signals import ATTENTION_SIGNALS, SIGNAL_NAMES, SIGNALS
from .stats import StepStats

_N_ATTENTION: Final = len(ATTENTION_SIGNALS)
_N_SIGNALS: Final = len(SIGNALS)
_SURPRISAL: Final = SIGNAL_NAMES.index("surprisal")
_LN2: Final = math.log(2.0)
_TOP_K_HINT: Final = 100
"""no preset raises top_k above max(100, 1.5 times the request's own)"""


class SamplerRows(NamedTuple):
    """The resident parameters of a batch; rebuilt when its composition changes, not every step.

    ``seeds``, ``branch``: int64 [B]; ``draws``: int64 [N], candidate numbers; ``any_enabled``, ``max_top_k``
    are known to the host so that a step of plain rows skips work: they never depend on device data.
    """

    policy: PolicyRows
    seeds: Tensor
    draws: Tensor
    branch: Tensor
    any_enabled: bool
    max_top_k: int | None

    @classmethod
    def build(
        cls,
        rows: Sequence[tuple[SamplingParams, PolicyConfig]],
        profile: Profile | None,
        device: torch.device | str = "cpu",
        branches: Sequence[int] | None = None,
    ) -> SamplerRows:
        """Resolve every row's preset, sampling fields and overrides; ``branches``: their numbers, else all 0.

        Raises ValueError for a bad override, or preset ``calibrated`` without a profile.
        """
        params, enabled, ranked = [], [], []
        for sampling, config in rows:
            on = config.policy == "entropix"
            calibrated = on and config.preset == "calibrated"
            if calibrated and profile is None:
                raise ValueError(
                    "preset 'calibrated' needs a profile; this model has none, use preset 'seed'"
                )
            base = profile.params if calibrated and profile else SEED_PARAMS if on else FIXED_BASE
            row = resolve(base, sampling, config.overrides)
            params.append(row)
            enabled.append(on and row.temperature > 0)
            ranked.append(calibrated)
        candidates = max((p.n_candidates for p, on in zip(params, enabled, strict=True) if on), default=1)
        limited = all(p.top_k > 0 for p in params)
        widest = max((p.top_k for p in params), default=0)
        return cls(
            PolicyRows.build(params, enabled, ranked, profile, device),
            torch.tensor([sampling.seed for sampling, _ in rows], dtype=torch.int64, device=device),
            torch.arange(candidates, device=device),
            torch.tensor([0] * len(rows) if branches is None else branches, dtype=torch.int64, device=device),
            any(enabled),
            max(_TOP_K_HINT, math.ceil(1.5 * widest)) if limited else None,
        )


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row of a step on the host: plain Python numbers, ready for a telemetry row."""

    token: int
    logprob: float
    signals: tuple[float | None, ...]
    strategy: Strategy | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n_candidates: int
    inserted: bool
    flags: int
    candidates: tuple[tuple[int, float, float], ...]
    """(token id, log probability in nats, guide's score), in the order of the draws"""


class StepResult(NamedTuple):
    """What a step decided and drew; [B] unless said. ``signals``, ``valid``: [B, len(SIGNALS)]; valid None
    where everything was measured.

    ``flags``: 1 NaN, 2 +inf, 4 all -inf in the row's logits: its token means nothing then.
    ``candidates``, ``candidate_logprobs``, ``candidate_scores``: [B, N].
    """

    token: Tensor
    logprob: Tensor
    signals: Tensor
    valid: Tensor | None
    decision: Decision
    inserted: Tensor
    flags: Tensor
    candidates: Tensor
    candidate_logprobs: Tensor
    candidate_scores: Tensor

    def pack(self) -> Tensor:
        """Everything the host wants as one float64 [B, C]: one copy a step. Ids are exact below 2^53."""
        d = self.decision
        heads = (
            self.token,
            self.logprob,
            d.strategy,
            d.temperature,
            d.top_p,
            d.top_k,
            d.min_p,
            d.n_candidates,
            self.inserted,
            self.flags,
        )
        signals = self.signals.to(torch.float64)
        if self.valid is not None:
            signals = signals.masked_fill(~self.valid, torch.nan)
        return torch.cat(
            [
                torch.stack([h.to(torch.float64) for h in heads], dim=1),
                signals,
                self.candidates.to(torch.float64),
                self.candidate_logprobs.to(torch.float64),
                self.candidate_scores.to(torch.float64),
            ],
            dim=1,
        )


def unpack(packed: Tensor) -> list[TokenRow]:
    """Rows of :meth:`StepResult.pack` on the host."""
    n = (packed.shape[1] - 10 - _N_SIGNALS) // 3
    rows = []
    for line in packed.tolist():
        signals = line[10 : 10 + _N_SIGNALS]
        rest = line[10 + _N_SIGNALS :]
        strategy, drawn = int(line[2]), int(line[7])
        rows.append(
            TokenRow(
                int(line[0]),
                line[1],
                tuple(None if x != x else x for x in signals),
                None if strategy == STRATEGY_OFF else Strategy(strategy),
                line[3],
                line[4],
                int(line[5]),
                line[6],
                drawn,
                bool(line[8]),
                int(line[9]),
                tuple(zip(map(int, rest[:drawn]), rest[n : n + drawn], rest[2 * n :][:drawn], strict=True)),
            )
        )
    return rows


def step_stats(measured: LogitsStats, attention: Tensor | None, attention_valid: Tensor | None) -> StepStats:
    """Put the two sources into one table: logits [B] and attention [B, 6] (or None: not measured)."""
    logits = torch.stack([measured.entropy, measured.varentropy], dim=1)
    rows = logits.shape[0]
    if attention is None:
        attention = logits.new_zeros(rows, _N_ATTENTION)
        attention_valid = torch.zeros(rows, dtype=torch.bool, device=logits.device)
    values = torch.cat([logits, attention.to(logits.dtype)], dim=1)
    if attention_valid is None:
        return StepStats(values)
    seen = torch.ones_like(values, dtype=torch.bool)
    seen[:, logits.shape[1] :] &= attention_valid.unsqueeze(1)
    return StepStats(values, seen)


def sample_step(
    logits: Tensor,
    attention: Tensor | None,
    attention_valid: Tensor | None,
    rows: SamplerRows,
    state: PolicyState,
    positions: Tensor,
    forced: Tensor,
    clarify: Tensor,
) -> tuple[StepResult, PolicyState]:
    """Measure, decide and draw for a batch.

    ``logits`` [B, V], masks and bans applied; ``attention`` [B, 6] in the order of ATTENTION_SIGNALS;
    ``positions`` [B] int64, the index of the token that is generated now; ``forced`` [B] int64, a token to
    emit whatever is drawn (-1: none); ``clarify`` [B] int64, the first token of the clarifying text as it
    would stand here (-1: none can be inserted).
    """
    measured = logits_stats(logits)
    stats = step_stats(measured, attention, attention_valid)
    free = forced < 0
    if rows.any_enabled:
        decision, state = decide(stats, state, rows.policy, free & (clarify >= 0))
    else:
        decision = _base_decision(rows.policy)
    uniforms = philox_uniform(
        rows.seeds.unsqueeze(1),
        positions.unsqueeze(1),
        rows.draws.unsqueeze(0),
        rows.branch.unsqueeze(1),
    )
    drawn = draw(
        logits,
        decision.temperature,
        decision.top_k,
        decision.top_p,
        decision.min_p,
        uniforms,
        max_top_k=rows.max_top_k,
    )
    # minus the maximum first: in float32 the sum of maximum and log Z loses 1e-3 at logits of 1e4
    top, log_z = measured.max_logit, measured.log_z
    candidate_logprobs = (logits.gather(1, drawn).to(top.dtype) - top.unsqueeze(1)) - log_z.unsqueeze(1)
    token = drawn[:, 0]
    if drawn.shape[1] > 1:
        unused = rows.draws.unsqueeze(0) >= decision.n_candidates.unsqueeze(1)
        best = candidate_logprobs.masked_fill(unused, -math.inf).argmax(1, keepdim=True)
        token = drawn.gather(1, best).squeeze(1)
    token = torch.where(decision.insert_clarify, clarify, token)
    token = torch.where(free, token, forced)
    logprob = ((logits.gather(1, token.unsqueeze(1)).squeeze(1).to(top.dtype) - top) - log_z).clamp_max(0)
    surprisal = (logprob / _LN2).abs().unsqueeze(1)
    s = _SURPRISAL
    valid = stats.valid
    if valid is not None:
        valid = torch.cat([valid[:, :s], torch.ones_like(valid[:, :1]), valid[:, s:]], dim=1)
    return (
        StepResult(
            token,
            logprob,
            torch.cat([stats.values[:, :s], surprisal, stats.values[:, s:]], dim=1),
            valid,
            decision,
            decision.insert_clarify,
            measured.flags,
            drawn,
            candidate_logprobs,
            score_candidates(candidate_logprobs, stats),
        ),
        state,
    )


def _base_decision(rows: PolicyRows) -> Decision:
    """What ``decide`` returns for a batch in which no row's policy is on, without computing it."""
    temperature, top_p, top_k, min_p = rows.base.unbind(1)
    off = torch.zeros_like(rows.budget)
    return Decision(
        off + STRATEGY_OFF, temperature, top_p, top_k.to(torch.int64), min_p, off + 1, off.to(torch.bool)
    )
