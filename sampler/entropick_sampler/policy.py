"""``decide``: the signals of a step in, a sampling decision for every row out.

Pure and batched: no ``.item()``, no Python ``if`` on data, so the same code serves the embedded engine, a
captured graph and a vLLM plugin. Rows may mix presets. The formulas of preset ``seed`` are those of the
2024 guide to Entropix (known answers in tests/golden, groups 03, 05, 06); ``calibrated`` keeps their shape
and puts quantile ranks of the model's own profile where the guide puts raw values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from .params import PARAM_NAMES, STRATEGY_OFF, PolicyParams, Strategy
from .profile import QUANTILE_LEVELS, Profile
from .signals import POLICY_SIGNALS
from .stats import StepStats

_COLUMN: Final = {name: i for i, name in enumerate(PARAM_NAMES)}
_SIGNAL: Final = {signal.name: i for i, signal in enumerate(POLICY_SIGNALS)}
_NEVER: Final = 1 << 30
"""tokens_since_clarify of a request that never clarified: no cooldown reaches it"""


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
    """The parameters of a batch: ``values`` [B, P] in the order of PARAM_NAMES, flags [B], one profile.

    ``enabled``: the policy decides (else the base values are used as they are). ``ranked``: preset
    ``calibrated``. ``quantiles`` [S, Q] at ``levels`` [Q]; ``clarify_weights`` [S], ``clarify_bias`` [].
    """

    values: Tensor
    enabled: Tensor
    ranked: Tensor
    quantiles: Tensor
    levels: Tensor
    clarify_weights: Tensor
    clarify_bias: Tensor

    def column(self, name: str) -> Tensor:
        """One parameter by name, [B]."""
        return self.values[:, _COLUMN[name]]

    @classmethod
    def build(
        cls,
        params: Sequence[PolicyParams],
        enabled: Sequence[bool],
        ranked: Sequence[bool],
        profile: Profile | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> PolicyRows:
        """Stack the rows of a batch, in float64 so that telemetry shows what was asked for.

        Raises ValueError where a row is ranked and there is no profile.
        """
        if profile is None and any(ranked):
            raise ValueError("preset 'calibrated' needs a profile; this model has none, use preset 'seed'")
        table = [[float(getattr(p, name)) for name in PARAM_NAMES] for p in params]
        quantiles = [
            profile.quantiles.get(s.name, QUANTILE_LEVELS) if profile else QUANTILE_LEVELS
            for s in POLICY_SIGNALS
        ]
        weights = [profile.clarify_weights.get(s.name, 0.0) if profile else 0.0 for s in POLICY_SIGNALS]
        return cls(
            torch.tensor(table, dtype=dtype, device=device),
            torch.tensor(list(enabled), device=device),
            torch.tensor(list(ranked), device=device),
            torch.tensor(quantiles, dtype=dtype, device=device),
            torch.tensor(QUANTILE_LEVELS, dtype=dtype, device=device),
            torch.tensor(weights, dtype=dtype, device=device),
            torch.tensor(profile.clarify_bias if profile else 1.0, dtype=dtype, device=device),
        )


def initial_state(batch: int, device: torch.device | str = "cpu") -> PolicyState:
    """The state of ``batch`` sequences that have not begun."""
    return PolicyState(
        torch.zeros(batch, dtype=torch.int64, device=device),
        torch.full((batch,), _NEVER, dtype=torch.int64, device=device),
    )


def quantile_ranks(stats: StepStats, rows: PolicyRows) -> Tensor:
    """Each signal's place in the profile, [B, S] in 0.01..0.99; 0.5 where a signal was not measured.

    Linear between the profile's quantiles; a run of equal quantiles is a step, so that a signal which is
    nearly always the same has a rank, too.
    """
    low, high = rows.quantiles[:, :-1], rows.quantiles[:, 1:]
    x = stats.values.to(rows.quantiles.dtype).unsqueeze(-1)
    width = high - low
    share = torch.where(width > 0, (x - low) / width.clamp_min(1e-30), (x > low).to(x.dtype)).clamp(0, 1)
    rank = rows.levels[0] + (share * rows.levels.diff()).sum(-1)
    return torch.where(stats.valid, rank, 0.5)


def classify(entropy: Tensor, varentropy: Tensor, rows: PolicyRows, clarify_ok: Tensor) -> Tensor:
    """The region of the (H, V) plane that each row is in, int64 [B]; every comparison is strict.

    The regions are asked in the order GREEDY, CLARIFY, EXPLORE, HIGH_UNCERTAINTY; what none claims is
    ADAPTIVE. With the presets they do not overlap; overrides may make them, and then the order decides.
    """
    h, v = entropy, varentropy
    column = rows.column
    strategy = torch.full_like(h, int(Strategy.ADAPTIVE), dtype=torch.int64)
    high = (h > column("high_uncertainty_entropy")) & (v > column("high_uncertainty_varentropy"))
    explore = (h < column("explore_entropy")) & (v > column("explore_varentropy"))
    clarify = (h > column("clarify_entropy")) & (v < column("clarify_varentropy")) & clarify_ok
    greedy = (h < column("greedy_entropy")) & (v < column("greedy_varentropy"))
    for region, where in (
        (Strategy.HIGH_UNCERTAINTY, high),
        (Strategy.EXPLORE, explore),
        (Strategy.CLARIFY, clarify),
        (Strategy.GREEDY, greedy),
    ):
        strategy = strategy.masked_fill(where, int(region))
    return strategy


class _Actions(NamedTuple):
    """What every strategy would do, before the region picks one; each [B]."""

    adaptive: tuple[Tensor, Tensor, Tensor, Tensor]
    clarify_temperature: Tensor
    explore: tuple[Tensor, Tensor]
    high: tuple[Tensor, Tensor]


def seed_actions(stats: StepStats, rows: PolicyRows) -> _Actions:
    """The guide's formulas on raw signals (golden groups 05 and 06), before the clip of the temperature.

    Attention terms drop out (0) where the engine has no attention signals.
    """
    t0, p0, k0, m0 = (rows.column(n) for n in ("temperature", "top_p", "top_k", "min_p"))
    values = stats.values * stats.valid
    h, v, a, av, agree, inter = (
        values[:, _SIGNAL[n]]
        for n in (
            "logits_entropy",
            "logits_varentropy",
            "attention_entropy",
            "attention_varentropy",
            "agreement_seed",
            "interaction_strength",
        )
    )
    uncertainty = h + v
    adaptive = (
        t0 * (1 + 0.3 * uncertainty + 0.2 * (a + av) - 0.2 * agree),
        (p0 * (1 + 0.1 * av)).clamp(0.1, 1.0),
        (k0 * (1 + 0.3 * inter - 0.2 * agree)).round().clamp(1, 100),
        (m0 * (1 - 0.5 * uncertainty)).clamp(0.01, 0.5),
    )
    return _Actions(
        adaptive,
        (t0 * (1.3 + 0.2 * a)).clamp_max(1.5),
        ((t0 * (1.2 + 0.3 * inter)).clamp_max(1.5), (k0 * (1 + 0.5 * (1 - agree))).trunc().clamp_min(5)),
        ((t0 * (2 + 0.5 * av)).clamp_min(2.0), (p0 - 0.2 * a).clamp_min(0.5)),
    )


def ranked_actions(ranks: Tensor, rows: PolicyRows) -> _Actions:
    """The calibrated formulas on quantile ranks [B, S]; docs/policy.md gives the reasons."""
    t0, p0, k0, m0 = (rows.column(n) for n in ("temperature", "top_p", "top_k", "min_p"))
    rh, rv, ra, rav, agree, inter = (
        ranks[:, _SIGNAL[n]]
        for n in (
            "logits_entropy",
            "logits_varentropy",
            "attention_entropy",
            "attention_varentropy",
            "agreement",
            "interaction_strength",
        )
    )
    uncertainty = (rh + rv) / 2
    adaptive = (
        t0 * (0.8 + 0.3 * uncertainty + 0.1 * (ra + rav) / 2 - 0.1 * agree),
        (p0 * (1 + 0.04 * (rav - 0.5))).clamp(0.1, 1.0),
        (k0 * (1 + 0.3 * inter - 0.2 * agree)).round().clamp_min(1),
        (m0 * (1 - 0.5 * uncertainty)).clamp_max(0.5),
    )
    return _Actions(
        adaptive,
        t0 * (1.1 + 0.2 * ra),
        (t0 * (1 + 0.3 * inter), torch.maximum((k0 * (1.5 - 0.5 * agree)).trunc(), k0.clamp_max(5))),
        # a request that sent a nucleus below 0.5 keeps it
        (t0 * (1.1 + 0.3 * rav), torch.minimum((p0 - 0.2 * ra).clamp_min(0.5), p0)),
    )


def decide(
    stats: StepStats, state: PolicyState, rows: PolicyRows, may_clarify: Tensor | None = None
) -> tuple[Decision, PolicyState]:
    """Pick a strategy and the parameters of the draw for every row.

    ``stats``: [B, S]; ``may_clarify``: bool [B], False where no text can be inserted now (the strategy is
    then carried out by its raised temperature); returns the decision and the state after it. A row whose
    policy is off gets its base values and STRATEGY_OFF. A filter that the base has switched off stays off.
    The temperature is clipped to the row's limits, widened where the request itself asks for a base outside
    them.
    """
    ranks = quantile_ranks(stats, rows)
    clarify_ok = ~rows.ranked | (rows.clarify_bias + (ranks * rows.clarify_weights).sum(-1) > 0)
    strategy = classify(stats.column("logits_entropy"), stats.column("logits_varentropy"), rows, clarify_ok)

    seed, ranked = seed_actions(stats, rows), ranked_actions(ranks, rows)

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.ranked, b, a)

    t0, p0, k0, m0 = (rows.column(n) for n in ("temperature", "top_p", "top_k", "min_p"))
    is_adaptive = strategy == int(Strategy.ADAPTIVE)
    is_explore = strategy == int(Strategy.EXPLORE)
    is_high = strategy == int(Strategy.HIGH_UNCERTAINTY)
    is_clarify = strategy == int(Strategy.CLARIFY)

    temperature = torch.where(is_adaptive, pick(seed.adaptive[0], ranked.adaptive[0]), t0)
    temperature = torch.where(is_explore, pick(seed.explore[0], ranked.explore[0]), temperature)
    temperature = torch.where(is_high, pick(seed.high[0], ranked.high[0]), temperature)
    temperature = torch.where(
        is_clarify, pick(seed.clarify_temperature, ranked.clarify_temperature), temperature
    )
    lowest = torch.minimum(rows.column("temperature_min"), t0)
    highest = torch.maximum(rows.column("temperature_max"), t0)
    temperature = torch.minimum(torch.maximum(temperature, lowest), highest)
    temperature = temperature.masked_fill(strategy == int(Strategy.GREEDY), 0.0)

    top_p = torch.where(is_adaptive, pick(seed.adaptive[1], ranked.adaptive[1]), p0)
    top_p = torch.where(is_high, pick(seed.high[1], ranked.high[1]), top_p)
    top_p = torch.where(p0 >= 1, p0, top_p)
    top_k = torch.where(is_adaptive, pick(seed.adaptive[2], ranked.adaptive[2]), k0)
    top_k = torch.where(is_explore, pick(seed.explore[1], ranked.explore[1]), top_k)
    top_k = torch.where(k0 <= 0, k0, top_k)
    min_p = torch.where(is_adaptive, pick(seed.adaptive[3], ranked.adaptive[3]), m0)
    min_p = torch.where(m0 <= 0, m0, min_p)

    on = rows.enabled & (t0 > 0)
    waited = state.tokens_since_clarify >= rows.column("clarify_cooldown")
    insert = on & is_clarify & waited & (state.clarify_used < rows.column("clarify_budget"))
    if may_clarify is not None:
        insert = insert & may_clarify
    decision = Decision(
        torch.where(on, strategy, STRATEGY_OFF),
        torch.where(on, temperature, t0),
        torch.where(on, top_p, p0),
        torch.where(on, top_k, k0).to(torch.int64),
        torch.where(on, min_p, m0),
        torch.where(on & is_adaptive, rows.column("n_candidates"), 1.0).to(torch.int64),
        insert,
    )
    return decision, PolicyState(
        state.clarify_used + insert,
        torch.where(insert, 0, state.tokens_since_clarify + 1),
    )
