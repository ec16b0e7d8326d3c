"""One sampling step for a batch: logits and attention statistics in, tokens and their telemetry out.

Measure -> decide -> filter and draw. No engine knowledge: rows are sequences, positions count generated
tokens from 0. Everything stays on the logits' device until :meth:`StepResult.pack` is copied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from entropick_kernels.logits_stats import Implementation, LogitsStats, logits_stats
from entropick_kernels.sample import draw, philox_uniform

from .params import FIXED_BASE, SEED_PARAMS, PolicyConfig, SamplingParams, resolve
from .policy import Decision, PolicyRows, PolicyState, decide
from .profile import Profile
from .score import score_candidates
from .signals import ATTENTION_SIGNALS
from .stats import StepStats

_N_ATTENTION: Final = len(ATTENTION_SIGNALS)
_LN2: Final = math.log(2.0)
_TOP_K_HINT: Final = 100
"""no preset raises top_k above max(100, 1.5 times the request's own)"""


class SamplerRows(NamedTuple):
    """The resident parameters of a batch; rebuilt when its composition changes, not every step.

    ``seeds``, ``draws``, ``branch``: int64 [B, N + W], what numbers the uniform numbers of N candidates, and
    of the first tokens of W further branches, beside the position; ``candidates`` N, ``any_enabled`` and
    ``max_top_k`` are known to the host so that a step of plain rows skips work: they never depend on device
    data. W is what the row that branches widest asks for, 0 where none may.
    """

    policy: PolicyRows
    seeds: Tensor
    draws: Tensor
    branch: Tensor
    candidates: int
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
        """Resolve every row's preset, sampling fields and overrides; ``branches``: their words, else all 0.

        A row's word numbers its draws beside the position; its first tokens of further branches have the
        words that follow.
        Raises ValueError for a bad override, or preset ``calibrated`` without a profile.
        """
        params, enabled, ranked = [], [], []
        extra = 0
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
            if config.branch is not None and enabled[-1]:
                extra = max(extra, config.branch.width - 1)
        candidates = max((p.n_candidates for p, on in zip(params, enabled, strict=True) if on), default=1)
        limited = all(p.top_k > 0 for p in params)
        widest = max((p.top_k for p in params), default=0)

        n = len(rows)
        own = torch.tensor([0] * n if branches is None else branches, dtype=torch.int64).unsqueeze(1)
        seeds = torch.tensor([sampling.seed for sampling, _ in rows], dtype=torch.int64).unsqueeze(1)
        # the first token of another branch is that branch's draw 0
        draws = torch.cat((torch.arange(candidates), torch.zeros(extra, dtype=torch.int64)))
        return cls(
            PolicyRows.build(params, enabled, ranked, profile, device),
            seeds.repeat(1, candidates + extra).to(device),
            draws.repeat(n, 1).to(device),
            torch.cat((own.repeat(1, candidates), own + torch.arange(1, extra + 1)), 1).to(device),
            candidates,
            any(enabled),
            max(_TOP_K_HINT, math.ceil(1.5 * widest)) if limited else None,
        )


class StepResult(NamedTuple):
    """What a step decided and drew.

    ``ids`` int64, ``logprobs`` [B, 1 + N + W]: the emitted token, the candidates, what further branches
    would begin with; ``scores`` [B, N + W]: the guide's, of all but the emitted one; ``surprisal`` [B, 1]:
    the emitted token's; ``normaliser`` [B, 2]: the largest logit and ln z. ``flags`` [B]: 1 NaN, 2 +inf,
    4 all -inf in the row's logits: its token means nothing then.
    """

    ids: Tensor
    logprobs: Tensor
    scores: Tensor
    stats: StepStats
    surprisal: Tensor
    normaliser: Tensor
    decision: Decision
    flags: Tensor

    @property
    def token(self) -> Tensor:
        """The emitted tokens, int64 [B]."""
        return self.ids[:, 0]

    def pack(self) -> Tensor:
        """Everything the host wants as one float64 [B, C]; its columns: :mod:`~.packed`."""
        d = self.decision
        values, valid = self.stats
        if valid is not None:
            values = values.masked_fill(~valid, torch.nan)
        # joined by type first: what has to be converted costs a launch apiece
        return torch.cat(
            (
                torch.stack((d.temperature, d.top_p, d.min_p), dim=1),
                torch.stack((d.strategy, d.top_k, d.n_candidates), dim=1),
                d.insert_clarify.unsqueeze(1),
                self.flags.unsqueeze(1),
                self.ids,
                torch.cat((self.logprobs, self.scores, values, self.surprisal, self.normaliser), dim=1),
            ),
            dim=1,
        )


def step_stats(measured: LogitsStats, attention: Tensor | None, attention_valid: Tensor | None) -> StepStats:
    """Put the two sources into one table: logits [B] and attention [B, 6] (or None: not measured)."""
    entropy, varentropy = measured.entropy.unsqueeze(1), measured.varentropy.unsqueeze(1)
    if attention is None:
        attention = entropy.new_zeros(entropy.shape[0], _N_ATTENTION)
        attention_valid = torch.zeros_like(measured.entropy, dtype=torch.bool)
    values = torch.cat((entropy, varentropy, attention.to(entropy.dtype)), dim=1)
    if attention_valid is None:
        return StepStats(values)
    seen = torch.ones_like(values, dtype=torch.bool)
    seen[:, 2:] = attention_valid.unsqueeze(1)
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
    implementation: Implementation | None = None,
) -> tuple[StepResult, PolicyState]:
    """Measure, decide and draw for a batch.

    ``logits`` [B, V], masks and bans applied; ``attention`` [B, 6] in the order of ATTENTION_SIGNALS;
    ``positions`` [B] int64, the index of the token that is generated now; ``forced`` [B] int64, a token to
    emit whatever is drawn (-1: none); ``clarify`` [B] int64, the first token of the clarifying text as it
    would stand here (-1: none can be inserted); ``implementation``: the kernels to use, None for the
    fastest.
    """
    measured = logits_stats(logits, implementation=implementation)
    stats = step_stats(measured, attention, attention_valid)
    none = rows.policy.off.strategy  # -1 in every row
    free = forced <= none
    decision = rows.policy.off
    if rows.any_enabled:
        decision, state = decide(stats, state, rows.policy, (clarify > none).logical_and_(free))
    drawn = draw(
        logits,
        decision.temperature,
        decision.top_k,
        decision.top_p,
        decision.min_p,
        philox_uniform(
            rows.seeds, positions.unsqueeze(1), rows.draws, rows.branch, implementation=implementation
        ),
        max_top_k=rows.max_top_k,
        implementation=implementation,
    )
    # minus the maximum first: in float32 the sum of maximum and log Z loses 1e-3 at logits of 1e4
    top, log_z = measured.max_logit.unsqueeze(1), measured.log_z.unsqueeze(1)

    def logprobs_of(ids: Tensor) -> Tensor:
        return (logits.gather(1, ids).to(top.dtype) - top).sub_(log_z)

    n = rows.candidates
    first = chosen = drawn[:, :n]
    if n > 1:
        unused = rows.draws[:, :n] >= decision.n_candidates.unsqueeze(1)
        first = chosen.gather(1, logprobs_of(chosen).masked_fill_(unused, -math.inf).argmax(1, keepdim=True))
    token = torch.where(free, first.squeeze(1), forced)
    if rows.any_enabled:
        token = torch.where(decision.insert_clarify, clarify, token)
    ids = torch.cat((token.unsqueeze(1), drawn), dim=1)
    logprobs = logprobs_of(ids)
    emitted = logprobs[:, :1].clamp_max_(0)
    return (
        StepResult(
            ids,
            logprobs,
            score_candidates(logprobs[:, 1:], stats),
            stats,
            (emitted / _LN2).abs_(),
            torch.cat((top, log_z), dim=1),
            decision,
            measured.flags,
        ),
        state,
    )
