"""``decide``: the signals of a step in, a sampling decision for every row out.

Pure and batched: no ``.item()``, no Python ``if`` on data, so the same code serves the embedded engine, a
captured graph and a vLLM plugin. Rows may mix presets. Regions are those of the 2024 guide to Entropix with
a preset's cut points (known answers in tests/golden, group 03); what a region does is in
:mod:`entropick_sampler.formulas`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from .formulas import CALIBRATED_ACTIONS, PARAMETERS, SEED_ACTIONS, table
from .params import STRATEGY_OFF, PolicyParams, Strategy
from .profile import QUANTILE_LEVELS, Profile
from .signals import POLICY_SIGNALS
from .stats import StepStats

_NEVER: Final = 1 << 30
"""tokens_since_clarify of a request that never clarified: no cooldown reaches it"""
_N: Final = len(Strategy)
_P: Final = len(PARAMETERS)
_ROUNDS: Final = 1.5 * 2.0**52
"""float64 beside this number has no fraction"""
_MIDDLE: Final = QUANTILE_LEVELS.index(0.5)
_UNRANKED: Final = (*(-1e30,) * _MIDDLE, 1e9, *(1e30,) * (len(QUANTILE_LEVELS) - _MIDDLE - 1))
"""quantiles of a signal for which a profile has none: whatever its value, its rank is 0.5"""
# GREEDY, CLARIFY, EXPLORE, HIGH_UNCERTAINTY: the cuts of each region in H and V, and on which side of them it
# lies (+1 above, -1 below); ADAPTIVE, the last strategy, lies above nothing at all and takes what is left
_CUTS: Final = (
    ("greedy_entropy", "clarify_entropy", "explore_entropy", "high_uncertainty_entropy"),
    ("greedy_varentropy", "clarify_varentropy", "explore_varentropy", "high_uncertainty_varentropy"),
)
_SIDES: Final = ((-1.0, 1.0, -1.0, 1.0, 1.0), (-1.0, -1.0, 1.0, 1.0, 1.0))


class PolicyState(NamedTuple):
    """What the policy remembers of a sequence; both [B] int64."""

    clarify_used: Tensor
    tokens_since_clarify: Tensor


class Decision(NamedTuple):
    """How the next token of every row is to be drawn; every field [B].

    ``strategy``: int64, a Strategy or STRATEGY_OFF. ``temperature`` 0 asks for the most probable token;
    ``top_k`` <= 0, ``top_p`` >= 1 and ``min_p`` <= 0 are filters that are off. ``insert_clarify``: bool, the
    clarifying text is to begin here.
    """

    strategy: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    n_candidates: Tensor
    insert_clarify: Tensor


class PolicyRows(NamedTuple):
    """The resident tensors of a batch: B rows, S policy signals, P parameters; float64 unless said.

    ``sides`` [2, 5], ``cuts`` [B, 2, 5]: on which side of its entropy and varentropy cut points each region
    lies, and the cut points times that sign.
    ``clarify`` [B, S]: weights of the discriminant, which must exceed ``clarify_cut`` [B], minus its bias;
    ``unread`` bool [B, S]: the signals without a weight.
    ``coefficients`` [B, 5 * P, S], ``constants``, ``low``, ``high`` [B, 5 * P]: every strategy's parameters,
    affine in the signals; ``rounding`` [5 * P] rounds those it is added to and taken from again.
    ``numbers`` int64 [3, B * 5]: the strategy as it is reported, how many candidates are drawn, how many
    clarifying texts the request may get. ``lines`` int64 [B]: where the five strategies of a row begin in a
    table of B * 5.
    ``ranked`` bool [B]: preset ``calibrated``. ``cooldown`` int64 [B]. ``rank_low``, ``rank_scale``
    [S, Q - 1], ``rank_step`` [Q - 1]: the profile's quantiles. ``off``: the decision where no row's policy is
    on. ``any_ranked``, ``all_ranked`` are known to the host and do not depend on device data.
    """

    cuts: Tensor
    sides: Tensor
    clarify: Tensor
    clarify_cut: Tensor
    unread: Tensor
    coefficients: Tensor
    constants: Tensor
    low: Tensor
    high: Tensor
    rounding: Tensor
    numbers: Tensor
    lines: Tensor
    ranked: Tensor
    cooldown: Tensor
    rank_low: Tensor
    rank_scale: Tensor
    rank_step: Tensor
    off: Decision
    any_ranked: bool
    all_ranked: bool

    @classmethod
    def build(
        cls,
        params: Sequence[PolicyParams],
        enabled: Sequence[bool],
        ranked: Sequence[bool],
        profile: Profile | None,
        device: torch.device | str = "cpu",
    ) -> PolicyRows:
        """Lay out the rows of a batch; temperature 0 switches a row's policy off.

        Raises ValueError where a row is ranked and there is no profile.
        """
        if profile is None and any(ranked):
            raise ValueError("preset 'calibrated' needs a profile; this model has none, use preset 'seed'")
        enabled = [on and p.temperature > 0 for p, on in zip(params, enabled, strict=True)]
        cells = [_cells(p, on, rank) for p, on, rank in zip(params, enabled, ranked, strict=True)]
        names = [s.name for s in POLICY_SIGNALS]
        weights, bias = (profile.clarify_weights, profile.clarify_bias) if profile else ({}, 1.0)
        fitted, always = [weights.get(n, 0.0) for n in names], [0.0] * len(names)
        known = profile.quantiles if profile else {}
        quantiles = torch.tensor([list(known.get(n, _UNRANKED)) for n in names], dtype=torch.float64)

        def floats(values: object, *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).reshape(shape).to(device)

        def integers(values: object, *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.int64).reshape(shape).to(device)

        def joined(name: str, *shape: int) -> Tensor:
            parts = [getattr(c, name) for c in cells]
            return (torch.stack(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)).to(device)

        n = len(params)
        cuts = [[[*(getattr(p, c) for c in axis), -math.inf] for axis in _CUTS] for p in params]
        sides = floats(_SIDES, 2, _N)
        discriminant = floats([fitted if rank else always for rank in ranked], n, len(names))
        numbers = [
            (
                int(s) if on else STRATEGY_OFF,
                p.n_candidates if on and s is Strategy.ADAPTIVE else 1,
                p.clarify_budget if on and s is Strategy.CLARIFY else 0,
            )
            for p, on in zip(params, enabled, strict=True)
            for s in Strategy
        ]
        return cls(
            floats(cuts, n, 2, _N) * sides,
            sides,
            discriminant,
            floats([-bias if rank else -1.0 for rank in ranked], n),
            discriminant == 0,
            joined("coefficients", _N * _P, len(names)),
            joined("constants", _N * _P),
            joined("low", _N * _P),
            joined("high", _N * _P),
            floats(
                [
                    _ROUNDS if s is Strategy.ADAPTIVE and name == "top_k" else 0.0
                    for s in Strategy
                    for name in PARAMETERS
                ],
                _N * _P,
            ),
            integers(numbers, n * _N, 3).t().contiguous(),
            integers([row * _N for row in range(n)], n),
            torch.tensor(list(ranked), dtype=torch.bool, device=device),
            integers([p.clarify_cooldown for p in params], n),
            quantiles[:, :-1].contiguous().to(device),
            # a run of equal quantiles becomes a step
            quantiles.diff().clamp_min(1e-12).reciprocal().to(device),
            floats(QUANTILE_LEVELS, len(QUANTILE_LEVELS)).diff(),
            Decision(
                integers([STRATEGY_OFF] * n, n),
                floats([p.temperature for p in params], n),
                floats([p.top_p for p in params], n),
                integers([p.top_k for p in params], n),
                floats([p.min_p for p in params], n),
                integers([1] * n, n),
                torch.zeros(n, dtype=torch.bool, device=device),
            ),
            any(ranked),
            all(ranked),
        )


class _Cells(NamedTuple):
    """One row of the tables of the same names."""

    coefficients: Tensor
    constants: Tensor
    low: Tensor
    high: Tensor


# a batch is laid out anew when a row joins or leaves; the others, and most of those to come, are known
@functools.lru_cache(maxsize=256)
def _cells(params: PolicyParams, enabled: bool, ranked: bool) -> _Cells:
    actions = (CALIBRATED_ACTIONS if ranked else SEED_ACTIONS) if enabled else None
    rows, low, high = (torch.tensor(part, dtype=torch.float64) for part in table(params, actions))
    return _Cells(rows[:, 1:], rows[:, 0], low, high)


def initial_state(batch: int, device: torch.device | str = "cpu") -> PolicyState:
    """The state of ``batch`` sequences that have not begun."""
    return PolicyState(
        torch.zeros(batch, dtype=torch.int64, device=device),
        torch.full((batch,), _NEVER, dtype=torch.int64, device=device),
    )


def quantile_ranks(stats: StepStats, rows: PolicyRows) -> Tensor:
    """Each signal's place in the profile, [B, S] in 0.01..0.99; 0.5 where a signal was not measured, now or
    in calibration.

    Linear between the profile's quantiles; a run of equal quantiles is a step, so that a signal which is
    nearly always the same has a rank, too.
    """
    share = (stats.values.unsqueeze(-1) - rows.rank_low).mul_(rows.rank_scale).clamp_(0, 1)
    rank = share.mul_(rows.rank_step).sum(-1).add_(QUANTILE_LEVELS[0])
    return rank if stats.valid is None else rank.masked_fill_(~stats.valid, 0.5)


def decide(
    stats: StepStats, state: PolicyState, rows: PolicyRows, may_clarify: Tensor | None = None
) -> tuple[Decision, PolicyState]:
    """Pick a strategy and the parameters of the draw for every row.

    ``stats``: [B, S]; ``may_clarify``: bool [B], False where no text can be inserted now (the strategy is
    then carried out by its raised temperature); returns the decision and the state after it. A row whose
    policy is off gets its base values and STRATEGY_OFF. Regions are asked in the order of Strategy and every
    comparison is strict; with the presets they do not overlap, overrides may make them. Where a profile has
    a discriminant, CLARIFY asks for it too, and for every signal that it reads. Formulas see raw signals
    under ``seed`` (0 where not measured) and quantile ranks under ``calibrated`` (0.5).
    """
    # float64 once: each of these small operations costs its launch, whatever it computes
    stats = StepStats(stats.values.to(rows.coefficients.dtype), stats.valid)
    raw = x = stats.known
    if rows.any_ranked:
        x = quantile_ranks(stats, rows)
        if not rows.all_ranked:
            x = torch.where(rows.ranked.unsqueeze(1), x, raw)

    # both sides of a comparison take the region's sign, which is exact
    hits = (stats.values[:, :2].unsqueeze(-1) * rows.sides > rows.cuts).all(1)
    # the discriminant sees raw values: the tokens it tells apart lie in the tail, where ranks are all alike
    clear = (rows.clarify * raw).sum(-1) > rows.clarify_cut
    if stats.valid is not None:
        clear &= (stats.valid | rows.unread).all(-1)
    hits.select(1, int(Strategy.CLARIFY)).logical_and_(clear)
    strategy = hits.view(torch.uint8).argmax(-1)  # the first of several

    # products row by row: a matrix product may sum in an order that depends on the batch
    cells = (rows.coefficients * x.unsqueeze(1)).sum(-1).add_(rows.constants)
    cells = torch.clamp(cells, rows.low, rows.high)
    # the guide rounds ADAPTIVE's top_k (half to even: what is left of it beside 1.5 * 2^52), and cuts off
    # EXPLORE's, as the conversion does
    cells = cells.add_(rows.rounding).sub_(rows.rounding).view(-1, _P).t()
    line = rows.lines + strategy
    temperature, top_p, top_k, min_p = cells.index_select(1, line).unbind(0)
    label, candidates, budget = rows.numbers.index_select(1, line).unbind(0)

    # the budget is 0 but under CLARIFY
    insert = (state.clarify_used < budget).logical_and_(state.tokens_since_clarify >= rows.cooldown)
    if may_clarify is not None:
        insert.logical_and_(may_clarify)
    decision = Decision(label, temperature, top_p, top_k.to(torch.int64), min_p, candidates, insert)
    return decision, PolicyState(
        state.clarify_used + insert, (state.tokens_since_clarify + 1).masked_fill_(insert, 0)
    )
