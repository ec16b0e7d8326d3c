"""The rule in words says what ``decide`` did: same regions, same numbers."""

import numpy as np
import pytest
import torch

from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import compose, resolve_policy
from entropick_sampler.explain import PolicyWords, policy_numbers, signal_rank
from entropick_sampler.params import PARAM_NAMES, PolicyConfig, SamplingParams
from entropick_sampler.policy import PolicyRows, decide, quantile_ranks
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.strategy import Strategy

NAMES = [signal.name for signal in POLICY_SIGNALS]
PROFILE = Profile(
    "m",
    "d",
    (0,),
    "2026-01-01",
    1000,
    {name: tuple(8 * level for level in QUANTILE_LEVELS) for name in NAMES},
    dict(zip(THRESHOLDS, (0.9, 1.5, 4.0, 3.0, 3.0, 2.0, 3.0, 2.0), strict=True)),
    clarify_weights={"agreement": 1.0, "attention_entropy": -0.1},
    clarify_bias=-0.2,
)
CASES = [
    (SamplingParams(), PolicyConfig()),
    (SamplingParams(), PolicyConfig(preset="seed")),
    (SamplingParams(temperature=0.9, top_p=1.0, top_k=-1), PolicyConfig(overrides={"min_p": 0.3})),
    (
        SamplingParams(min_p=0.0),
        PolicyConfig(preset="seed", overrides={"loop_length": 3, "temperature_max": 0.8}),
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_the_words_are_those_of_the_decision(case: tuple[SamplingParams, PolicyConfig]) -> None:
    """Conditions that hold and fail, and every parameter, as ``decide`` has them, for 500 tokens."""
    rng = np.random.default_rng(1)
    count = 500
    values = rng.gamma(1.2, 2.0, (count, len(NAMES)))
    values[:, NAMES.index("agreement")] = rng.uniform(0, 1, count)
    values[::7, :2] *= 0.05
    repeated = rng.integers(0, 8, count)
    memory = StepColumns.of([StepRow(3, repeated=int(n)) for n in repeated]).memory
    rows = PolicyRows.of(compose([case] * count, PROFILE), PROFILE)
    decision = decide(StepStats(torch.tensor(values)), memory, rows)
    policy = resolve_policy(*case, PROFILE)
    words = PolicyWords(policy, "entropix")
    seen = set()
    for i in range(count):
        strategy = Strategy(int(decision.strategy[i]))
        seen.add(strategy)
        signals = {**dict(zip(NAMES, values[i].tolist(), strict=True)), "repeated_suffix": float(repeated[i])}
        told = words.explain(strategy, signals)
        length = policy.params.loop_length
        looping = 0 < length <= repeated[i]
        assert ("in a loop" in told.rule) == looping
        if strategy is Strategy.ADAPTIVE:
            for region in Strategy:
                if region is Strategy.ADAPTIVE or (region is Strategy.GREEDY and looping):
                    continue
                if not all(c.holds for c in words.conditions(region, values[i])):
                    assert f"not {region.label}: " in told.rule
                else:
                    assert region is Strategy.CLARIFY
                    assert "not clarify and discriminant" in told.rule
        else:
            conditions = words.conditions(strategy, values[i])
            assert all(c.holds and c.words() in told.rule for c in conditions)
        numbers = words.values(strategy, values[i], looping)
        for name, number in numbers.items():
            wanted = float(getattr(decision, name)[i])
            assert number == pytest.approx(wanted, rel=1e-9, abs=1e-12), (strategy, name)
        text = told.parameters["temperature"]
        raised = "raised to loop_temperature" in text
        shown = text.rpartition(" ")[2] if raised else text.split()[1].rstrip(",")
        assert float(shown) == pytest.approx(numbers["temperature"], rel=1e-3)
    assert len(seen) >= 4


def test_ranks_are_those_of_the_policy() -> None:
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 10, (50, len(NAMES)))
    rows = PolicyRows.of(compose([CASES[0]], PROFILE), PROFILE)
    wanted = quantile_ranks(StepStats(torch.tensor(values)), rows.shared)
    for i, row in enumerate(values):
        for s, value in enumerate(row):
            assert signal_rank(PROFILE, s, value) == pytest.approx(float(wanted[i, s]), abs=1e-12)


def test_words() -> None:
    words = PolicyWords(resolve_policy(*CASES[1], None), "entropix")
    signals = dict.fromkeys(NAMES, 0.05)
    told = words.explain(Strategy.GREEDY, signals)
    assert told.rule == (
        "logits_entropy 0.05 < greedy_entropy 0.1 and logits_varentropy 0.05 < greedy_varentropy 0.1"
    )
    assert told.parameters["temperature"] == "temperature 0"
    told = words.explain(Strategy.EXPLORE, {**signals, "logits_varentropy": 9.0})
    assert told.parameters["temperature"] == (
        "temperature 0.8092 = 0.7992 + 0.1998 x interaction_strength 0.05"
    )
    assert "- 13.5 x agreement_seed 0.05" in told.parameters["top_k"]


@pytest.mark.parametrize(
    ("sampling", "config", "rule"),
    [
        (SamplingParams(), PolicyConfig(policy="fixed"), "policy fixed: an ordinary sampler"),
        (SamplingParams(0.0), PolicyConfig(), "temperature 0 was asked for"),
        (SamplingParams(), PolicyConfig(policy="top_n_sigma"), "policy top_n_sigma: min_p: keeps logits"),
        (SamplingParams(), PolicyConfig(policy="edt"), "(edt_theta 0.1, edt_base 0.8)"),
    ],
)
def test_policies_without_strategies(sampling: SamplingParams, config: PolicyConfig, rule: str) -> None:
    policy = resolve_policy(sampling, config, PROFILE)
    told = PolicyWords(policy, config.policy).explain(None, {})
    assert rule in told.rule
    assert "top_k" not in told.parameters
    assert set(policy_numbers(policy)) <= set(PARAM_NAMES)


def test_the_numbers_in_force() -> None:
    numbers = policy_numbers(resolve_policy(SamplingParams(top_k=9), PolicyConfig(), PROFILE))
    assert (numbers["greedy_entropy"], numbers["top_k"]) == (0.9, 9)
