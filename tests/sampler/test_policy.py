"""decide against the known answers (groups 03, 05, 06), and the properties that hold for any input."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from entropick_sampler.columns import PolicyMemory, StepColumns, StepRow
from entropick_sampler.compose import Composition, RowParams, compose, row_params
from entropick_sampler.params import (
    FIXED_BASE,
    FORMULA_BASE,
    PARAM_NAMES,
    SEED_PARAMS,
    FormulaParams,
    PolicyConfig,
    PolicyParams,
    SamplingParams,
    check_overrides,
    resolve,
)
from entropick_sampler.policy import (
    Decision,
    PolicyRows,
    decide,
    quantile_ranks,
)
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.strategy import STRATEGY_OFF, Strategy

CASES = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())
NAMES = [signal.name for signal in POLICY_SIGNALS]


def make_stats(*rows: dict[str, float], dtype: torch.dtype = torch.float64) -> StepStats:
    values = torch.tensor([[row.get(name, 0.0) for name in NAMES] for row in rows], dtype=dtype)
    return StepStats(values, torch.ones_like(values, dtype=torch.bool))


def make_rows(
    *params: PolicyParams, ranked: bool = False, profile: Profile | None = None, enabled: bool = True
) -> PolicyRows:
    rows = [RowParams.of(p, enabled, profile if ranked else None) for p in params]
    return PolicyRows.of(Composition.of(rows, profile), profile)


def fresh(rows: int, device: str = "cpu") -> PolicyMemory:
    """The memory of sequences without a clarifying text."""
    return StepColumns.of([StepRow(0)] * rows).to(device).memory


def make_profile(**changes: object) -> Profile:
    quantiles = {name: tuple(10.0 * level for level in QUANTILE_LEVELS) for name in NAMES}
    thresholds = dict(zip(THRESHOLDS, (0.2, 0.5, 2.0, 1.0, 3.0, 4.0, 3.0, 4.0), strict=True))
    profile = Profile("m", "d", (0, 1), "2026-01-01", 1000, quantiles, thresholds)
    return replace(profile, **changes)  # type: ignore[arg-type]


def guide_signals(metrics: dict[str, float]) -> dict[str, float]:
    """The known answers' names -> ours; their agreement is the guide's."""
    names = {
        "attn_entropy": "attention_entropy",
        "attn_varentropy": "attention_varentropy",
        "agreement": "agreement_seed",
    }
    return {names.get(key, key): value for key, value in metrics.items()}


def decide_one(stats: StepStats, params: PolicyParams = SEED_PARAMS, **kwargs: object) -> Decision:
    rows = make_rows(params, **kwargs)  # type: ignore[arg-type]
    return decide(stats, fresh(1), rows)


@pytest.mark.parametrize("case", CASES["03_state_machine"]["cases"])
def test_state_machine(case: dict[str, object]) -> None:
    stats = make_stats({"logits_entropy": case["entropy"], "logits_varentropy": case["varentropy"]})  # type: ignore[dict-item]
    assert Strategy(int(decide_one(stats).strategy)).label == case["seed_004"]


UNCLIPPED = {"temperature_min": 0.0, "temperature_max": 100.0}


@pytest.mark.parametrize("case", CASES["05_adaptive_parameter_adjustment"]["cases"])
def test_adaptive_parameters_before_the_clip(case: dict[str, dict[str, float]]) -> None:
    base = case["base"]
    # no region but ADAPTIVE: the known answers hold wherever in the plane their signals lie
    nowhere = {
        "greedy_entropy": 0.0,
        "clarify_entropy": 64.0,
        "explore_entropy": 0.0,
        "high_uncertainty_entropy": 64.0,
    }
    params = replace(SEED_PARAMS, **{**base, "top_k": int(base["top_k"])}, **nowhere, **UNCLIPPED)
    got = decide_one(make_stats(guide_signals(case["metrics"])), params)
    assert Strategy(int(got.strategy)) is Strategy.ADAPTIVE
    for name in ("temperature", "top_p", "top_k", "min_p"):
        assert float(getattr(got, name)) == pytest.approx(case["seed_004"][name], abs=1e-9), name


@pytest.mark.parametrize("case", CASES["06_quadrant_actions"]["cases"])
def test_quadrant_actions(case: dict[str, dict[str, float]]) -> None:
    params = replace(
        SEED_PARAMS, temperature=case["base_T"], top_p=case["top_p"], top_k=case["top_k"], clarify_budget=0
    )
    signals = guide_signals({k: v for k, v in case.items() if isinstance(v, float)})

    def at(h: float, v: float) -> Decision:
        return decide_one(make_stats({**signals, "logits_entropy": h, "logits_varentropy": v}), params)

    clarify, explore, high = at(4.0, 0.05), at(2.0, 6.0), at(6.0, 6.0)
    assert float(clarify.temperature) == pytest.approx(case["clarify_second_time"]["temperature"])
    assert float(explore.temperature) == pytest.approx(case["explore"]["temperature"])
    assert int(explore.top_k) == case["explore"]["top_k"]
    assert float(high.temperature) == pytest.approx(case["high_uncertainty"]["temperature"])
    assert float(high.top_p) == pytest.approx(case["high_uncertainty"]["top_p"])


def test_the_temperature_is_clipped_to_the_limits() -> None:
    """The third known answer of group 05 asks for 3.1275; the preset stops at 3."""
    case = CASES["05_adaptive_parameter_adjustment"]["cases"][4]
    hot = decide_one(make_stats(guide_signals(case["metrics"])))
    assert case["seed_004"]["temperature"] > 3.0
    assert float(hot.temperature) == 3.0
    assert int(hot.n_candidates) == 12


def test_regions_partition_the_plane() -> None:
    """Every (H, V) falls into exactly one region, at the thresholds and beside them."""
    edges = [0.0, 0.05, 0.1, 0.1000001, 1.0, 2.9999999, 3.0, 3.0000001, 5.0, 5.0000001, 12.0]
    grid = list(itertools.product(edges, edges))
    h = torch.tensor([x for x, _ in grid], dtype=torch.float64)
    v = torch.tensor([y for _, y in grid], dtype=torch.float64)
    stats = make_stats(*({"logits_entropy": x, "logits_varentropy": y} for x, y in grid))
    rows = make_rows(*[SEED_PARAMS] * len(grid))
    got = decide(stats, fresh(len(grid)), rows).strategy
    for x, y, strategy in zip(h.tolist(), v.tolist(), got.tolist(), strict=True):
        hits = {
            Strategy.GREEDY: x < 0.1 and y < 0.1,
            Strategy.CLARIFY: x > 3 and y < 0.1,
            Strategy.EXPLORE: x < 5 and y > 5,
            Strategy.HIGH_UNCERTAINTY: x > 5 and y > 5,
        }
        named = [s for s, hit in hits.items() if hit]
        assert len(named) <= 1
        assert strategy == (named[0] if named else Strategy.ADAPTIVE)
    assert set(got.tolist()) == set(range(5))


def test_clarify_inserts_once_then_raises_the_temperature() -> None:
    stats = make_stats({"logits_entropy": 4.0, "attention_entropy": 1.5})
    rows = make_rows(SEED_PARAMS)
    first = decide(stats, fresh(1), rows)
    second = decide(stats, StepColumns.of([StepRow(1, clarify_used=1, since_clarify=99)]).memory, rows)
    assert (bool(first.insert_clarify), bool(second.insert_clarify)) == (True, False)
    assert Strategy(int(second.strategy)) is Strategy.CLARIFY
    assert float(second.temperature) == pytest.approx(0.666 * 1.6)


def test_clarify_waits_for_the_cooldown_and_for_permission() -> None:
    stats = make_stats({"logits_entropy": 4.0})
    rows = make_rows(replace(SEED_PARAMS, clarify_budget=2, clarify_cooldown=3))
    inserted = []
    for since, used in ((None, 0), (0, 1), (2, 1), (3, 1), (3, 2)):
        memory = StepColumns.of([StepRow(9, clarify_used=used, since_clarify=since)]).memory
        inserted.append(bool(decide(stats, memory, rows).insert_clarify))
    assert inserted == [True, False, False, True, False]
    denied = decide(stats, fresh(1), rows, torch.tensor([False]))
    assert not bool(denied.insert_clarify)


def test_a_loop_is_drawn_from_warmly() -> None:
    stats = make_stats({"logits_entropy": 0.01, "logits_varentropy": 0.01})
    rows = make_rows(replace(SEED_PARAMS, loop_length=3, loop_temperature=1.1))
    for repeated, strategy, temperature in ((2, "GREEDY", 0.0), (3, "ADAPTIVE", 1.1), (32, "ADAPTIVE", 1.1)):
        got = decide(stats, StepColumns.of([StepRow(40, repeated=repeated)]).memory, rows)
        assert Strategy(int(got.strategy)).name == strategy
        assert float(got.temperature) == temperature


def test_what_limits_the_temperature_of_a_loop() -> None:
    """A hotter formula stays, temperature_max holds, and without a loop length nothing is a loop."""
    stats = make_stats({"logits_entropy": 1.0, "logits_varentropy": 1.0})
    plain = float(decide_one(stats, SEED_PARAMS).temperature)
    for changes, want in (
        ({"loop_length": 3, "loop_temperature": 0.2}, plain),
        ({"loop_length": 3, "loop_temperature": 2.0, "temperature_max": 1.5}, 1.5),
        ({"loop_length": 0, "loop_temperature": 2.0}, plain),
    ):
        rows = make_rows(replace(SEED_PARAMS, **changes))  # type: ignore[arg-type]
        got = decide(stats, StepColumns.of([StepRow(40, repeated=9)]).memory, rows)
        assert float(got.temperature) == pytest.approx(want)
    rows = make_rows(replace(FIXED_BASE, loop_length=3, loop_temperature=2.0), enabled=False)
    got = decide(stats, StepColumns.of([StepRow(40, repeated=9)]).memory, rows)
    assert float(got.temperature) == FIXED_BASE.temperature


def test_filters_that_are_off_stay_off() -> None:
    off = replace(SEED_PARAMS, top_k=0, top_p=1.0, min_p=0.0)
    for h, v in itertools.product((0.0, 2.0, 4.0, 6.0), (0.05, 1.0, 6.0)):
        stats = make_stats({"logits_entropy": h, "logits_varentropy": v, "attention_varentropy": 1.0})
        d = decide_one(stats, off)
        assert (int(d.top_k), float(d.top_p), float(d.min_p)) == (0, 1.0, 0.0)


def test_policy_off_hands_the_base_through() -> None:
    d = decide_one(make_stats({"logits_entropy": 6.0, "logits_varentropy": 6.0}), FIXED_BASE, enabled=False)
    assert (int(d.strategy), float(d.temperature), int(d.n_candidates)) == (STRATEGY_OFF, 1.0, 1)


def test_a_temperature_0_that_was_asked_for_switches_the_policy_off() -> None:
    profile = make_profile()
    for policy in (PolicyConfig(preset="calibrated"), PolicyConfig(preset="seed")):
        for sampling, overrides in (
            (SamplingParams(temperature=0.0), {}),
            (SamplingParams(), {"temperature": 0}),
        ):
            row = row_params(sampling, replace(policy, overrides=overrides), profile)
            assert (row.enabled, row.draws) == (False, False)


def test_calibrated_without_a_temperature_draws_in_loops_alone() -> None:
    """Every strategy has its label and takes the most probable token, until the reply repeats itself."""
    profile = make_profile()
    row = row_params(SamplingParams(), PolicyConfig(preset="calibrated"), profile)
    assert (row.enabled, row.draws) == (True, True)
    rows = PolicyRows.of(Composition.of([row], profile), profile)
    seen = set()
    for h, v in itertools.product((0.1, 1.0, 2.5, 3.5), (0.1, 1.5, 4.5)):
        stats = make_stats({"logits_entropy": h, "logits_varentropy": v, "attention_varentropy": 9.0})
        free = decide(stats, StepColumns.of([StepRow(40, repeated=4)]).memory, rows)
        loop = decide(stats, StepColumns.of([StepRow(40, repeated=5)]).memory, rows)
        seen.add(Strategy(int(free.strategy)).name)
        assert (float(free.temperature), float(loop.temperature)) == (0.0, 1.5)
        assert Strategy(int(loop.strategy)) is not Strategy.GREEDY
    assert seen >= {"GREEDY", "EXPLORE", "HIGH_UNCERTAINTY", "ADAPTIVE"}


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    """Mixed presets, random signals: each row alone decides as it does among 15 others."""
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(16, len(NAMES), generator=generator, dtype=torch.float64) * 7
    stats = StepStats(values, torch.rand(16, len(NAMES), generator=generator) > 0.1)
    profile = make_profile(clarify_weights={"agreement": 2.0}, clarify_bias=-1.0)
    presets = [RowParams.of(profile.params, True, profile), RowParams.of(SEED_PARAMS, True, None)]
    mixed = PolicyRows.of(Composition.of(presets * 8, profile), profile)
    together = decide(stats, fresh(16), mixed)
    for i in range(16):
        row = PolicyRows.of(Composition.of([presets[i % 2]], profile), profile)
        one = StepStats(stats.values[i : i + 1], stats.valid[i : i + 1])
        alone = decide(one, fresh(1), row)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[i])


def asked(profile: Profile, **fields: float) -> PolicyParams:
    return resolve(profile.params, SamplingParams(**fields), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("temperature", "overrides", "limits"),
    [
        (None, {}, (0.1, 3.0)),
        (4.0, {}, (0.1, 4.0)),
        (0.05, {}, (0.05, 3.0)),
        (None, {"temperature_max": 0.5}, (0.1, 0.5)),
        (None, {"temperature_min": 1.0}, (1.0, 3.0)),
        (2.0, {"temperature_max": 0.5}, (0.1, 0.5)),
        (None, {"temperature_min": 3.3}, (3.3, 3.3)),
        (None, {"temperature_max": 0.05}, (0.05, 0.05)),
    ],
)
def test_temperature_limits(
    temperature: float | None, overrides: dict[str, float], limits: tuple[float, float]
) -> None:
    """Only a temperature that was sent widens them, and never a limit that was sent."""
    got = resolve(SEED_PARAMS, SamplingParams(temperature=temperature), overrides)
    assert (got.temperature_min, got.temperature_max) == limits


def test_a_temperature_too_small_to_divide_by_is_greedy() -> None:
    assert resolve(SEED_PARAMS, SamplingParams(temperature=1e-40), {}).temperature == 0.0


def test_ranks_follow_the_profile() -> None:
    flat = dict.fromkeys(NAMES, (0.0,) * 8 + (1.0,))
    rows = make_rows(SEED_PARAMS, profile=make_profile(quantiles=flat))
    stats = make_stats(dict.fromkeys(NAMES, -1.0))
    assert torch.allclose(quantile_ranks(stats, rows.shared), torch.tensor(0.01, dtype=torch.float64))
    rows = make_rows(SEED_PARAMS, profile=make_profile())
    ranks = quantile_ranks(make_stats({"logits_entropy": 5.0, "agreement": 99.0}), rows.shared)
    assert float(ranks[0, NAMES.index("logits_entropy")]) == pytest.approx(0.5)
    assert float(ranks[0, NAMES.index("agreement")]) == pytest.approx(0.99)
    missing = StepStats(torch.zeros(1, len(NAMES)), torch.zeros(1, len(NAMES), dtype=torch.bool))
    assert torch.all(quantile_ranks(missing, rows.shared) == 0.5)


def test_calibrated_formulas_and_limits() -> None:
    profile = make_profile()
    stats = make_stats({"logits_entropy": 1.0, "logits_varentropy": 2.0})
    d = decide_one(stats, asked(profile, temperature=0.7), ranked=True, profile=profile)
    want = 0.7 * (0.8 + 0.15 * (0.1 + 0.2))
    assert Strategy(int(d.strategy)) is Strategy.ADAPTIVE
    assert float(d.temperature) == pytest.approx(want)
    hot = decide_one(stats, asked(profile, temperature=2.0), ranked=True, profile=profile)
    assert float(hot.temperature) == pytest.approx(min(2.0, want / 0.7 * 2.0)), (
        "limits widen to the request's"
    )
    cold = decide_one(stats, asked(profile, temperature=0.05), ranked=True, profile=profile)
    assert float(cold.temperature) == pytest.approx(want / 0.7 * 0.05), "no floor"


def test_discriminant_gates_clarify_under_calibrated_only() -> None:
    stats = make_stats({"logits_entropy": 4.0, "logits_varentropy": 0.05, "agreement": 9.0})
    closed = make_profile(clarify_weights={"agreement": 1.0}, clarify_bias=-9.5)
    opened = make_profile(clarify_weights={"agreement": 1.0}, clarify_bias=-8.5)
    for profile, want in ((closed, Strategy.ADAPTIVE), (opened, Strategy.CLARIFY)):
        d = decide_one(stats, profile.params, ranked=True, profile=profile)
        assert Strategy(int(d.strategy)) is want
    seed = decide_one(stats, SEED_PARAMS, profile=closed)
    assert Strategy(int(seed.strategy)) is Strategy.CLARIFY
    unseen = stats._replace(valid=torch.tensor([[name != "agreement" for name in NAMES]]))
    blind = decide_one(unseen, opened.params, ranked=True, profile=opened)
    assert Strategy(int(blind.strategy)) is not Strategy.CLARIFY, "a signal that it reads is missing"
    unread = unseen._replace(valid=torch.tensor([[name != "attention_entropy" for name in NAMES]]))
    seeing = decide_one(unread, opened.params, ranked=True, profile=opened)
    assert Strategy(int(seeing.strategy)) is Strategy.CLARIFY


def test_request_fields_replace_the_base_and_overrides_come_last() -> None:
    sampling = SamplingParams(temperature=0.3, top_k=0)
    got = resolve(SEED_PARAMS, sampling, {"top_k": 5, "clarify_entropy": 2.5})
    assert (got.temperature, got.top_k, got.top_p, got.clarify_entropy) == (0.3, 5, 0.90, 2.5)


@pytest.mark.parametrize(
    ("overrides", "needle"),
    [
        ({"greedy_entrpy": 1.0}, "greedy_entropy"),
        ({"top_p": 0.0}, "overrides.top_p"),
        ({"temperature": float("nan")}, "overrides.temperature"),
        ({"top_k": 2.5}, "whole number"),
        ({"top_k": float("inf")}, "overrides.top_k"),
        ({"n_candidates": 65}, "64"),
        ({"clarify_budget": 10**400}, "a larger number"),
        ({"top_p": -(10**400)}, "overrides.top_p"),
        ({"temperature": True}, "must be a number"),
        ({"temperature_min": 2.0, "temperature_max": 1.0}, "temperature_max"),
    ],
)
def test_bad_overrides_name_the_field(overrides: dict[str, float], needle: str) -> None:
    with pytest.raises(ValueError, match=needle):
        check_overrides(overrides)


def test_every_parameter_has_a_range_that_holds_the_presets() -> None:
    for params in (SEED_PARAMS, FIXED_BASE, FORMULA_BASE, FormulaParams()):
        check_overrides(asdict(params))
    assert (*asdict(SEED_PARAMS), *asdict(FormulaParams())) == PARAM_NAMES


def test_calibrated_without_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a profile"):
        compose([(SamplingParams(), PolicyConfig(preset="calibrated"))], None)
