"""One sampling step for a batch as tensor operations: logits and attention statistics in, tokens out.

Measure -> decide -> filter and draw, on any device. No engine knowledge: rows are sequences, positions count
generated tokens from 0. Everything stays on the logits' device until :meth:`StepResult.pack` is copied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from entropick_kernels.adjust import add_to_logits, mask_logits, penalise, restore
from entropick_kernels.logits_stats import Kernels, LogitsStats, logits_stats
from entropick_kernels.sample import draw, philox_uniform

from .adjustments import Adjustments
from .columns import StepColumns
from .compose import Composition, compose
from .one_formula_torch import FigureRows, adjust, figure_rows
from .params import PolicyConfig, SamplingParams
from .policy import Decision, PolicyRows, decide
from .profile import Profile
from .score import score_candidates
from .signals import ATTENTION_SIGNALS
from .stats import StepStats

_N_ATTENTION: Final = len(ATTENTION_SIGNALS)
_LN2: Final = math.log(2.0)


class SamplerRows(NamedTuple):
    """The resident tensors of a batch; made when its composition changes, not in every step.

    ``seeds`` int64 [B, 1], ``draws`` [1, C], ``streams`` [B, C]: the numbers of the C = N + W draws beside
    the position, for N candidates and the first tokens of W further branches. ``candidates`` N,
    ``any_enabled`` and ``max_top_k`` as in :class:`.compose.Composition`; ``opens``: some row's discriminant
    adds an opening score; ``figures``: the rows of policies with one formula, by figure.
    """

    policy: PolicyRows
    seeds: Tensor
    draws: Tensor
    streams: Tensor
    candidates: int
    any_enabled: bool
    opens: bool
    max_top_k: int | None
    figures: tuple[FigureRows, ...]

    @classmethod
    def of(
        cls, composition: Composition, profile: Profile | None, device: torch.device | str = "cpu"
    ) -> SamplerRows:
        """Returns the tensors of a composition on a device."""
        policy = PolicyRows.of(composition, profile, device)
        # the first token of another branch is draw 0 of that branch's stream
        branch = torch.arange(1 - composition.candidates, composition.firsts + 1, device=device).clamp_min_(0)
        draws = torch.arange(composition.candidates + composition.firsts, device=device)
        return cls(
            policy,
            policy.seed.unsqueeze(1),
            draws.masked_fill_(branch > 0, 0).unsqueeze(0),
            policy.stream.unsqueeze(1) + branch,
            composition.candidates,
            composition.any_enabled,
            composition.any_ranked and len(composition.opening.ids) > 0,
            composition.max_top_k,
            figure_rows(composition, policy),
        )

    @classmethod
    def build(
        cls,
        rows: Sequence[tuple[SamplingParams, PolicyConfig]],
        profile: Profile | None,
        device: torch.device | str = "cpu",
        streams: Sequence[int] | None = None,
    ) -> SamplerRows:
        """Returns the tensors of the rows that :func:`.compose.compose` composes; raises its ValueError."""
        return cls.of(compose(rows, profile, streams), profile, device)


class StepResult(NamedTuple):
    """The decisions and the draws of a step.

    ``ids`` int64, ``logprobs`` [B, 1 + C]: the emitted token, the N candidates, the W first tokens of further
    branches, C = N + W; ``scores`` [B, C]: the guide's, of all but the emitted one. All [B, 1]: ``surprisal``
    of the emitted token, ``excess`` (that minus the entropy), ``repeated``, the reply's repeated suffix.
    ``normaliser`` [B, 2]: the largest logit and ln z. ``flags`` [B]: 1 NaN, 2 +inf, 4 all -inf in the row's
    logits: its token means nothing then.
    """

    ids: Tensor
    logprobs: Tensor
    scores: Tensor
    stats: StepStats
    surprisal: Tensor
    excess: Tensor
    repeated: Tensor
    normaliser: Tensor
    decision: Decision
    flags: Tensor

    def pack(self) -> Tensor:
        """Returns the lines of the step, float64 [B, ...]; their columns: :mod:`.packed`."""
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
                torch.cat((self.logprobs, self.scores, values, self.surprisal, self.excess), dim=1),
                self.repeated,
                self.normaliser,
            ),
            dim=1,
        )


def step_stats(measured: LogitsStats, attention: Tensor | None, attention_valid: Tensor | None) -> StepStats:
    """Returns the signals of both sources in one table: logits [B] and attention [B, 7] (or None).

    An attention signal that is NaN is not valid: a query may see no previous key.
    """
    entropy, varentropy = measured.entropy.unsqueeze(1), measured.varentropy.unsqueeze(1)
    if attention is None:
        attention = entropy.new_zeros(entropy.shape[0], _N_ATTENTION)
        there = torch.zeros_like(attention, dtype=torch.bool)
    else:
        there = attention == attention
        attention = torch.where(there, attention, 0.0)
        if attention_valid is not None:
            there &= attention_valid.unsqueeze(1)
    values = torch.cat((entropy, varentropy, attention.to(entropy.dtype)), dim=1)
    return StepStats(values, torch.nn.functional.pad(there, (2, 0), value=True))


def opening_scores(logits: Tensor, shift: Tensor, positions: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Returns the opening score of each row, float64 [B]; -infinity where the token is not a reply's first.

    ``logits`` [B, V]; ``shift`` [B, 2]: each row's largest logit and ln z, so that a log probability is
    logit - largest - ln z; ``positions`` [B]: the indices of the drawn tokens in their replies;
    ``ids``, ``weights`` [K]: as in :class:`.opening.OpeningWeights`.
    """
    # in two steps and the type of the statistics, as all log probabilities: a sum of both loses digits
    logprobs = (logits[:, ids].to(shift.dtype) - shift[:, :1]).sub_(shift[:, 1:])
    score = (logprobs.to(torch.float64) * weights).sum(-1)
    return score.masked_fill_(~score.isfinite() | (positions != 0), -math.inf)


def sample_step(
    logits: Tensor,
    attention: Tensor | None,
    attention_valid: Tensor | None,
    rows: SamplerRows,
    columns: StepColumns,
    kernels: Kernels | None = None,
    adjustments: Adjustments | None = None,
) -> StepResult:
    """Measures, decides and draws for a batch.

    ``logits`` [B, V], float32 or float64 where there are ``adjustments``: masks and what is added change
    them in place, penalties are taken back before the return; ``attention`` [B, 7] in the order of
    ATTENTION_SIGNALS, None where it was not measured, NaN in the place of a signal that does not exist;
    ``attention_valid`` bool [B]: the rows whose attention was measured, None for all; ``columns``: the new
    inputs of the rows; ``kernels``: the kernels to use, None for the fastest. Returns the tokens and their
    telemetry on the logits' device.
    """
    masks, added, seen, factors = adjustments or Adjustments()
    if masks is not None:
        mask_logits(logits, masks, kernels=kernels)
    if added is not None:
        add_to_logits(logits, added, kernels=kernels)
    measured = logits_stats(logits, kernels=kernels)
    stats = step_stats(measured, attention, attention_valid)
    forced, clarify = columns.forced, columns.clarify
    free = forced < 0
    decision = rows.policy.off
    if rows.any_enabled:
        opening = None
        if rows.opens and columns.begins:
            shift = torch.stack((measured.max_logit, measured.log_z), dim=1)
            shared = rows.policy.shared
            opening = opening_scores(
                logits, shift, columns.positions, shared.opening_ids, shared.opening_weights
            )
        decision = decide(stats, columns.memory, rows.policy, (clarify >= 0).logical_and_(free), opening)
    if rows.figures:
        decision = adjust(decision, logits, measured, columns.memory, rows.figures, kernels)
    before = None
    if seen is not None and factors is not None:
        before = penalise(logits, seen, factors, kernels=kernels)
    drawn = draw(
        logits,
        decision.temperature,
        decision.top_k,
        decision.top_p,
        decision.min_p,
        philox_uniform(
            rows.seeds,
            columns.positions.unsqueeze(1),
            rows.draws,
            rows.streams,
            kernels=kernels,
        ),
        max_top_k=rows.max_top_k,
        kernels=kernels,
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
    if before is not None and seen is not None:
        restore(logits, seen, before, kernels=kernels)
    token = torch.where(free, first.squeeze(1), forced)
    if rows.any_enabled:
        token = torch.where(decision.insert_clarify, clarify, token)
    ids = torch.cat((token.unsqueeze(1), drawn), dim=1)
    logprobs = logprobs_of(ids)
    emitted = logprobs[:, :1].clamp_max_(0)
    surprisal = (emitted / _LN2).abs_()
    return StepResult(
        ids,
        logprobs,
        score_candidates(logprobs[:, 1:], stats),
        stats,
        surprisal,
        surprisal - measured.entropy.unsqueeze(1),
        columns.memory.repeated.unsqueeze(1),
        torch.cat((top, log_z), dim=1),
        decision,
        measured.flags,
    )
