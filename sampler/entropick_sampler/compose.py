"""The parameters of a batch, composed from one record a row and the profile's quantiles.

A record holds every number that the policy reads of a row. It is made once for each combination of sampling
fields, overrides and profile, and kept; to compose a batch is to join the records of its rows. Knows no
tensors, so a request can be validated anywhere: :mod:`.policy` and :mod:`.step` lay tensors over the records,
and :mod:`.native` reads them where they lie.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .formulas import PARAMETERS, Floats, table
from .one_formula import ONE_FORMULA, Figure, OneFormula
from .opening import OpeningWeights
from .params import (
    FIXED_BASE,
    FORMULA_BASE,
    SEED_PARAMS,
    FormulaParams,
    PolicyConfig,
    PolicyName,
    PolicyParams,
    SamplingParams,
    check_overrides,
    formula_params,
    resolve,
)
from .profile import QUANTILE_LEVELS, Profile
from .signals import POLICY_SIGNALS
from .strategy import STRATEGY_OFF, Strategy

N_SIGNALS: Final = len(POLICY_SIGNALS)
N_STRATEGIES: Final = len(Strategy)
N_PARAMETERS: Final = len(PARAMETERS)
_SIGNAL_NAMES: Final = tuple(signal.name for signal in POLICY_SIGNALS)
_TOP_K: Final = PARAMETERS.index("top_k")

ROW: Final = np.dtype(
    [
        ("cuts", np.float64, (2, N_STRATEGIES)),
        ("clarify_weights", np.float64, (N_SIGNALS,)),
        ("clarify_cut", np.float64),
        ("coefficients", np.float64, (N_STRATEGIES, N_PARAMETERS, N_SIGNALS)),
        ("constants", np.float64, (N_STRATEGIES, N_PARAMETERS)),
        ("low", np.float64, (N_STRATEGIES, N_PARAMETERS)),
        ("high", np.float64, (N_STRATEGIES, N_PARAMETERS)),
        ("choices", np.int64, (3, N_STRATEGIES)),
        ("cooldown", np.int64),
        ("loop_length", np.int64),
        ("loop_temperature", np.float64),
        ("seed", np.int64),
        ("stream", np.int64),
        ("ranked", np.uint8),
        ("opens", np.uint8),
        ("unread", np.uint8, (N_SIGNALS,)),
        ("figure", np.int64),
        ("sets_min_p", np.uint8),
        ("inputs", np.float64, (2,)),
        ("terms", np.float64, (3,)),
        ("temperatures", np.float64, (2,)),
    ],
    align=True,
)
"""The record of a row: its numbers for 5 strategies, 4 parameters of a draw and S policy signals.

``cuts``: the entropy and varentropy cut points of each region, times SIDES. ``clarify_weights``,
``clarify_cut``: the discriminant of CLARIFY, and the number that it must exceed (its bias times -1);
``unread``: 1 for each signal without a weight. ``coefficients``, ``constants``, ``low``, ``high``: the
parameters of a draw under each strategy, affine in the signals and then clipped. ``choices``: the rows LABEL,
DRAWN and BUDGET for each strategy. ``cooldown``: tokens between two clarifying texts. ``loop_length``,
``loop_temperature``: the repeated tokens from which on a reply is in a loop, NO_LOOP where this is never
asked, and the least temperature there. ``seed``, ``stream``: the key of the draws and their Philox stream.
``ranked``: 1 where the formulas read quantile ranks (preset ``calibrated``); ``opens``: 1 where the
discriminant adds the opening score. Of a policy with one formula (:mod:`.one_formula`): ``figure``, a Figure,
0 of all other rows; ``sets_min_p``, 0 where it sets the temperature; ``inputs`` of the figure; ``terms``:
offset, scale and weight; ``temperatures``: the limits of a temperature.
"""
NO_LOOP: Final = 1 << 30
"""The ``loop_length`` of a row for which no reply is in a loop."""
LABEL: Final = 0
"""The row of ``choices`` with the strategy as it is reported: STRATEGY_OFF where the policy is off."""
DRAWN: Final = 1
"""The row of ``choices`` with the number of candidates that are drawn."""
BUDGET: Final = 2
"""The row of ``choices`` with the number of clarifying texts that a request may get; 0 but for CLARIFY."""

# GREEDY, CLARIFY, EXPLORE, HIGH_UNCERTAINTY; ADAPTIVE, the last strategy, has no cut points
CUTS: Final = (
    ("greedy_entropy", "clarify_entropy", "explore_entropy", "high_uncertainty_entropy"),
    ("greedy_varentropy", "clarify_varentropy", "explore_varentropy", "high_uncertainty_varentropy"),
)
"""The names of the cut points on entropy and varentropy, region by region."""
SIDES: Final[Floats] = np.array(((-1.0, 1.0, -1.0, 1.0, 1.0), (-1.0, -1.0, 1.0, 1.0, 1.0)))
"""On which side of its entropy and its varentropy cut point each region lies: 1 above, -1 below, [2, 5].

ADAPTIVE lies above -infinity: it takes the tokens that the other regions leave over.
"""
_ROUNDS: Final = 1.5 * 2.0**52
"""A number beside which a float64 has no fraction."""
ROUNDING: Final[Floats] = np.zeros((N_STRATEGIES, N_PARAMETERS))
"""A parameter is rounded half to even where this is added to it and taken off again, [5, 4].

The guide rounds ADAPTIVE's top_k, and cuts off EXPLORE's, as the conversion to a whole number does.
"""
ROUNDING[Strategy.ADAPTIVE, _TOP_K] = _ROUNDS

_MIDDLE: Final = QUANTILE_LEVELS.index(0.5)
_UNRANKED: Final = (*(-1e30,) * _MIDDLE, 1e9, *(1e30,) * (len(QUANTILE_LEVELS) - _MIDDLE - 1))
"""Quantiles of a signal for which a profile has none: whatever its value, its rank is 0.5."""
RANK_STEP: Final[Floats] = np.diff(np.array(QUANTILE_LEVELS))
"""How far a rank rises from one quantile to the next, [Q - 1]."""


class Ranks(NamedTuple):
    """The quantiles of a profile but for the highest, and 1 / distance to the next; both [S, Q - 1]."""

    low: Floats
    scale: Floats


class RowParams(NamedTuple):
    """The parameters of a row, and the facts of them that the host must know.

    ``record``: the bytes of a ROW whose seed and stream are 0. ``enabled``: the policy is on. ``ranked``:
    preset ``calibrated``. ``candidates``: the largest number of candidates. ``draws``: not every token is the
    most probable one. ``max_top_k``: the largest top_k of any strategy, 0 where neither top_k nor top_p ever
    drops a token, None where nothing limits it. ``figure``: what the row's one formula reads, None where it
    has none.
    """

    record: bytes
    enabled: bool
    ranked: bool
    candidates: int
    draws: bool
    max_top_k: int | None
    figure: Figure | None = None

    @classmethod
    def of(
        cls,
        params: PolicyParams,
        enabled: bool,
        profile: Profile | None,
        formula: tuple[OneFormula, FormulaParams] | None = None,
    ) -> RowParams:
        """Returns the parameters of a row.

        ``enabled``: whether its policy is on. ``profile``: of a row of preset ``calibrated``, None
        for all other rows; ``formula``: of a policy with one formula, with its numbers.
        """
        ranked = profile is not None
        draws = params.temperature > 0 or (enabled and (params.temperature_min > 0 or params.loop_length > 0))
        cells = table(params, ("calibrated" if ranked else "seed") if enabled else None)
        record = np.zeros((), ROW)
        record["cuts"] = [[*(getattr(params, c) for c in axis), -math.inf] for axis in CUTS] * SIDES
        weights = profile.clarify_weights if profile else {}
        record["clarify_weights"] = [weights.get(name, 0.0) for name in _SIGNAL_NAMES]
        record["clarify_cut"] = -(profile.clarify_bias if profile else 1.0)
        record["unread"] = record["clarify_weights"] == 0
        record["opens"] = bool(profile and profile.opening_weights)
        for name in cells._fields:
            record[name] = getattr(cells, name)
        choices = record["choices"]
        choices[LABEL] = list(Strategy) if enabled else STRATEGY_OFF
        choices[DRAWN] = 1
        if enabled:
            choices[DRAWN, Strategy.ADAPTIVE] = params.n_candidates
            choices[BUDGET, Strategy.CLARIFY] = params.clarify_budget
        record["cooldown"], record["ranked"] = params.clarify_cooldown, ranked
        record["loop_length"] = params.loop_length if enabled and params.loop_length else NO_LOOP
        record["loop_temperature"] = min(params.loop_temperature, params.temperature_max)
        candidates = params.n_candidates if enabled else 1
        figure = None
        if formula is not None and draws:
            policy, numbers = formula
            figure, terms = policy.figure, policy.terms(params, numbers)
            record["figure"], record["sets_min_p"] = figure, policy.sets == "min_p"
            record["inputs"], record["terms"] = terms.inputs, terms[:3]
            record["temperatures"] = params.temperature_min, params.temperature_max
        max_top_k = _max_top_k(params, record, ranked)
        return cls(record.tobytes(), enabled, ranked, candidates, draws, max_top_k, figure)


def _max_top_k(params: PolicyParams, record: Any, ranked: bool) -> int | None:
    if params.top_k <= 0:  # a filter that is off stays off under every strategy
        return 0 if params.top_p >= 1.0 else None
    coefficients = record["coefficients"][:, _TOP_K]
    # a rank is at most 1; a measured figure that raises top_k is positive and has no limit
    highest = np.where(coefficients > 0, coefficients if ranked else math.inf, 0.0).sum(-1)
    top_k = record["constants"][:, _TOP_K] + highest
    largest = np.clip(top_k, record["low"][:, _TOP_K], record["high"][:, _TOP_K]).max()
    return math.ceil(largest) if math.isfinite(largest) else None


class Composition(NamedTuple):
    """The resident parameters of B rows that are sampled together.

    ``records``: ROW [B]. ``ranks``, ``opening``: the profile's. ``candidates``: the largest number N of
    candidates of a row; ``firsts``: the largest number W of further branches whose first tokens a row draws.
    ``any_enabled``: the policy of some row is on; ``any_ranked``, ``all_ranked``: some or all rows are
    ranked. ``max_top_k``: the largest top_k of the rows that draw, 0 where they have no filter, None where
    nothing limits it (the promise of :func:`entropick_kernels.sample.draw`). ``figures``: for each figure
    that a row's one formula reads, the numbers of these rows. The host knows these, so that a step of plain
    rows can skip work.
    """

    records: npt.NDArray[Any]
    ranks: Ranks
    opening: OpeningWeights
    candidates: int
    firsts: int
    any_enabled: bool
    any_ranked: bool
    all_ranked: bool
    max_top_k: int | None
    figures: Mapping[Figure, tuple[int, ...]]

    @property
    def measured(self) -> bool:
        """Tells whether the draw of some row depends on its signals."""
        return self.any_enabled or bool(self.figures)

    @classmethod
    def of(cls, rows: Sequence[RowParams], profile: Profile | None, firsts: int = 0) -> Composition:
        """Returns the records of these rows side by side; seeds and streams are 0."""
        joined = bytearray().join([row.record for row in rows])
        ranked = [row.ranked for row in rows]
        figures: dict[Figure, tuple[int, ...]] = {}
        for i, row in enumerate(rows):
            if row.figure is not None:
                figures[row.figure] = (*figures.get(row.figure, ()), i)
        limits = {row.max_top_k for row in rows if row.draws}
        known = [limit for limit in limits if limit is not None]
        # no promise holds for rows with a filter and rows without
        mixed = len(known) < len(limits) or (0 in limits and len(limits) > 1)
        return cls(
            np.frombuffer(joined, ROW) if joined else np.zeros(0, ROW),
            rank_tables(profile),
            opening_table(profile),
            max([row.candidates for row in rows], default=1),
            firsts,
            any(row.enabled for row in rows),
            any(ranked),
            all(ranked),
            None if mixed else max(known, default=0),
            figures,
        )


@functools.lru_cache(maxsize=16)
def rank_tables(profile: Profile | None) -> Ranks:
    """Returns the quantiles of a profile's signals; a signal without any has rank 0.5 everywhere."""
    known = profile.quantiles if profile else {}
    quantiles = np.array([known.get(name, _UNRANKED) for name in _SIGNAL_NAMES], dtype=np.float64)
    # a run of equal quantiles becomes a step
    return Ranks(quantiles[:, :-1].copy(), 1.0 / np.maximum(np.diff(quantiles), 1e-12))


@functools.lru_cache(maxsize=16)
def opening_table(profile: Profile | None) -> OpeningWeights:
    """Returns the opening weights of a profile; K is 0 where it has none."""
    return OpeningWeights.of(profile.opening_weights if profile else {})


class ResolvedPolicy(NamedTuple):
    """The numbers of a request's policy.

    ``enabled``: strategies decide; ``profile``: of preset ``calibrated``; ``formula``: of a policy with one
    formula, with its numbers.
    """

    params: PolicyParams
    enabled: bool
    profile: Profile | None
    formula: tuple[OneFormula, FormulaParams] | None


def resolve_policy(sampling: SamplingParams, config: PolicyConfig, profile: Profile | None) -> ResolvedPolicy:
    """Returns the numbers of a request's policy: its preset, replaced by sampling fields and overrides.

    ``profile``: the one in force, which preset ``calibrated`` needs. Raises ValueError for a bad override.
    """
    policy, given = config.policy, config.overrides
    one = ONE_FORMULA.get(policy)
    profile = profile if policy == "entropix" and config.preset == "calibrated" else None
    base = profile.params if profile else SEED_PARAMS if policy == "entropix" else FIXED_BASE
    params = resolve(base if one is None else FORMULA_BASE, sampling, given)
    # a temperature 0 that was asked for is plain greedy
    greedy = params.temperature == 0.0 and given.get("temperature", sampling.temperature) is not None
    formula = None if one is None else (one, formula_params(given))
    return ResolvedPolicy(params, policy == "entropix" and not greedy, profile, formula)


# a batch is composed anew when a row joins or leaves; the others, and most of those to come, are known
@functools.lru_cache(maxsize=512)
def _row_params(
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    overrides: tuple[tuple[str, float], ...],
    policy: PolicyName,
    profile: Profile | None,
) -> RowParams:
    sampling = SamplingParams(temperature, top_p, top_k, min_p)
    config = PolicyConfig(policy, "calibrated" if profile else "seed", dict(overrides))
    found = resolve_policy(sampling, config, profile)
    return RowParams.of(found.params, found.enabled, found.profile, found.formula)


def row_params(sampling: SamplingParams, policy: PolicyConfig, profile: Profile | None) -> RowParams:
    """Returns the parameters of a request's rows: its preset, sampling fields and overrides.

    Raises ValueError for a bad override, and for preset ``calibrated`` without a profile.
    """
    calibrated = policy.policy == "entropix" and policy.preset == "calibrated"
    if calibrated and profile is None:
        raise ValueError("preset 'calibrated' needs a profile; this model has none, use preset 'seed'")
    check_overrides(policy.overrides)  # here, because True is not told from 1 by a cache
    return _row_params(
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.min_p,
        tuple(policy.overrides.items()),
        policy.policy,
        profile if calibrated else None,
    )


def validate_request(sampling: SamplingParams, policy: PolicyConfig, profile: Profile | None) -> None:
    """Raises the ValueError that :func:`compose` would raise for a row of this request."""
    if not -(1 << 63) <= sampling.seed < 1 << 63:
        raise ValueError("seed must fit into 64 bits")
    row_params(sampling, policy, profile)


def compose(
    rows: Sequence[tuple[SamplingParams, PolicyConfig]],
    profile: Profile | None,
    streams: Sequence[int] | None = None,
) -> Composition:
    """Returns the parameters of these rows; ``streams``: their Philox streams, None for 0 in every row.

    Raises ValueError for a bad override, for preset ``calibrated`` without a profile, and for a seed that
    does not fit into 64 bits.
    """
    parameters, widths = [], [1]
    for sampling, policy in rows:
        row = row_params(sampling, policy, profile)
        parameters.append(row)
        if policy.branch is not None and row.enabled:
            widths.append(policy.branch.width)
    composition = Composition.of(parameters, profile, max(widths) - 1)
    try:
        composition.records["seed"] = [sampling.seed for sampling, _ in rows]
    except OverflowError as error:
        raise ValueError("seed must fit into 64 bits") from error
    if streams is not None:
        composition.records["stream"] = streams
    return composition
