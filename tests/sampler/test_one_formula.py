"""The policies with one formula: known answers, float64 against every batched form, properties."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropick_kernels.logits_shape.reference import temperature_reference
from entropick_kernels.logits_stats.reference import logits_entropy
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import validate_request
from entropick_sampler.one_formula import ONE_FORMULA
from entropick_sampler.one_formula_reference import parameter
from entropick_sampler.packed import SURPRISAL, TokenRow, unpack
from entropick_sampler.params import (
    FORMULA_BASE,
    PARAM_RANGES,
    PolicyConfig,
    PolicyName,
    SamplingParams,
    formula_params,
    resolve,
)
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.step import SamplerRows, sample_step

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cases.json").read_text())["13_dslider_and_peers"]
NEUTRAL: dict[PolicyName, dict[str, float]] = {
    "edt": {"edt_theta": 0.0},
    "dynamic_temperature": {"dynatemp_range": 0.0},
    "top_n_sigma": {"top_n_sigma": 1000.0},
    "mirostat": {"mirostat_tau": 64.0, "mirostat_eta": 0.0},
    "top_h": {"top_h_alpha": 1.0},
}
"""numbers with which a policy is policy ``fixed``"""
SILENT = SamplingParams()
Rows = list[tuple[SamplingParams, PolicyConfig]]


def set_by(
    policy: PolicyName,
    logits: Any,
    overrides: dict[str, float] | None = None,
    sampling: SamplingParams = SILENT,
    surprisal: float = 0.0,
    tokens: int = 0,
) -> float:
    """What the float64 reference sets."""
    given = overrides or {}
    params = resolve(FORMULA_BASE, sampling, given)
    return parameter(policy, logits, params, formula_params(given), surprisal, tokens)


def set_in(policy: PolicyName, row: TokenRow) -> float:
    """What a step set."""
    return row.temperature if ONE_FORMULA[policy].sets == "temperature" else row.min_p


def native(logits: Tensor, rows: Rows, columns: StepColumns) -> list[TokenRow]:
    return unpack(SampledBatch(rows, None).step(logits, None, None, columns))


def tensor(logits: Tensor, rows: Rows, columns: StepColumns, kernels: Any = None) -> list[TokenRow]:
    built = SamplerRows.build(rows, None)
    return unpack(sample_step(logits, None, None, built, columns, kernels).pack())


def at(position: int, rows: int) -> StepColumns:
    return StepColumns.of([StepRow(position)] * rows)


def test_known_answers_of_the_temperatures() -> None:
    edt, dynamic, tuned = GOLDEN["edt"], GOLDEN["dynatemp"], GOLDEN["temp_tune"]
    x = -np.arange(12.0)
    flat = x / temperature_reference(x, edt["entropy_nats"] / math.log(2), 0.01, 5.0)
    assert logits_entropy(flat) * math.log(2) == pytest.approx(edt["entropy_nats"], rel=1e-12)
    numbers = {"edt_theta": edt["theta"], "edt_base": edt["N"], "temperature": edt["T0"]}
    assert set_by("edt", flat, numbers) == pytest.approx(edt["T"], rel=1e-9)

    middle = (dynamic["min_T"] + dynamic["max_T"]) / 2
    numbers = {"dynatemp_range": dynamic["max_T"] - middle, "dynatemp_exponent": dynamic["exponent"]}
    got = set_by("dynamic_temperature", np.log(dynamic["probs"]), {**numbers, "temperature": middle})
    assert got == pytest.approx(dynamic["T"], rel=1e-9)

    bits = tuned["target_entropy_nats"] / math.log(2)
    got = set_by("target_entropy", tuned["logits"], {"target_entropy": bits})
    assert got == pytest.approx(tuned["T"], rel=1e-9)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
def test_top_n_sigma_keeps_the_known_tokens_at_every_temperature(temperature: float) -> None:
    case = GOLDEN["top_n_sigma"]
    sampling = SamplingParams(temperature=temperature)
    floor = set_by("top_n_sigma", case["logits"], {"top_n_sigma": case["n"]}, sampling)
    x = np.array(case["logits"])
    # min_p of the tempered distribution, as a logit
    assert x.max() + temperature * math.log(floor) == pytest.approx(case["threshold"], rel=1e-9)
    logits = torch.tensor([case["logits"]]).repeat(64, 1)
    rows = [
        (
            SamplingParams(seed=i, temperature=temperature),
            PolicyConfig("top_n_sigma", overrides={"top_n_sigma": case["n"]}),
        )
        for i in range(64)
    ]
    for form in (native, tensor):
        drawn = {row.token for row in form(logits, rows, at(0, 64))}
        assert drawn == {i for i, kept in enumerate(case["keep"]) if kept}


def test_dynamic_temperature_is_llama_cpps() -> None:
    """A range beyond the temperature begins at 0; one token alone has no entropy to compare with."""
    numbers = {"temperature": 0.7, "dynatemp_range": 2.0, "dynatemp_exponent": 1.5, "temperature_max": 5.0}
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert set_by("dynamic_temperature", np.log(p), numbers) == pytest.approx(2.7 * 0.875**1.5)
    alone = np.array([1.0, -math.inf, -math.inf])
    assert set_by("dynamic_temperature", alone, numbers) == 0.01, "the limit"


def test_mirostat_is_the_published_loop() -> None:
    """The limit on surprisal follows from the sum of the surprisals alone."""
    rng = np.random.default_rng(1)
    tau, eta = 2.5, 0.3
    mu, total = 2 * tau, 0.0
    for count in range(40):
        x = rng.standard_normal(50) * 2
        p = np.exp(x - x.max())
        p /= p.sum()
        floor = set_by(
            "mirostat", x, {"mirostat_tau": tau, "mirostat_eta": eta}, surprisal=total, tokens=count
        )
        assert floor == pytest.approx(min(2**-mu / p.max(), 1.0), rel=1e-9)
        allowed = np.where((-np.log2(p) <= mu) | (p == p.max()), p, 0)
        surprisal = float(-np.log2(p[rng.choice(50, p=allowed / allowed.sum())]))
        total += surprisal
        mu -= eta * (surprisal - tau)


def test_mirostat_holds_its_target() -> None:
    """Over many tokens the mean surprisal is tau, where the distribution can give it."""
    rows: Rows = [(SamplingParams(seed=3), PolicyConfig("mirostat", overrides={"mirostat_tau": 4.0}))]
    g = torch.Generator().manual_seed(2)
    total, batch = 0.0, SampledBatch(rows, None)
    for position in range(400):
        logits = torch.randn(1, 800, generator=g) * 2.5  # about 5 bits without a limit
        columns = StepColumns.of([StepRow(position, tokens=position, surprisal=total)])
        (row,) = unpack(batch.step(logits, None, None, columns))
        total -= row.logprob / math.log(2)
    assert total / 400 == pytest.approx(4.0, abs=0.1)


KINDS = tuple(
    (sampling, PolicyConfig(policy, overrides=overrides))
    for policy in ONE_FORMULA
    for sampling in (
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.6, top_k=40, top_p=0.9),
        SamplingParams(seed=3, temperature=1.4, min_p=0.02),
    )
    for overrides in (
        {},
        {"edt_theta": 1.5, "dynatemp_exponent": 3.0, "target_entropy": 3.0, "top_n_sigma": 2.0},
    )
)
OTHERS: Rows = [
    (SamplingParams(seed=1), PolicyConfig("fixed")),
    (SamplingParams(seed=4), PolicyConfig(preset="seed")),
    (SamplingParams(seed=5, temperature=0.0), PolicyConfig("edt")),
]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kinds=st.lists(st.integers(0, len(KINDS) + len(OTHERS) - 1), min_size=1, max_size=9),
    vocabulary=st.sampled_from((5, 97, 2500)),
    width=st.sampled_from((0.5, 3.0, 8.0)),
)
def test_every_form_sets_what_the_reference_sets(
    seed: int, kinds: list[int], vocabulary: int, width: float
) -> None:
    rows = [(*KINDS, *OTHERS)[k] for k in kinds]
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), vocabulary, generator=g) * width
    logits[::2, 1::3] = -math.inf
    sums = [(n, 4.0 * n * float(torch.rand((), generator=g))) for n in range(len(rows))]
    columns = StepColumns.of([StepRow(n, tokens=n, surprisal=total) for n, total in sums])
    forms = (
        native(logits, rows, columns),
        tensor(logits, rows, columns),
        tensor(logits, rows, columns, "torch"),
    )
    for i, (sampling, policy) in enumerate(rows):
        got = [form[i] for form in forms]
        assert got[0].token == got[1].token, "the same kernels draw the same token"
        assert len({row.strategy for row in got}) == 1
        if policy.policy not in ONE_FORMULA or sampling.temperature == 0:
            continue
        n, total = sums[i]
        x = logits[i].double()
        want = set_by(policy.policy, x, dict(policy.overrides), sampling, total, n)
        for row in got:
            assert row.strategy is None
            assert row.n_candidates == 1
            if policy.policy == "target_entropy":
                # where the entropy hardly rises with it the temperature is not to be known any better
                reached = float(logits_entropy(x, row.temperature))
                assert reached == pytest.approx(float(logits_entropy(x, want)), abs=1e-5)
            else:
                assert set_in(policy.policy, row) == pytest.approx(want, rel=1e-4, abs=1e-6)
            assert row.top_k == (sampling.top_k or 0)
            assert row.top_p == (sampling.top_p or 1.0)


def test_rows_of_all_policies_are_bit_equal_alone_and_in_a_batch() -> None:
    rows: Rows = [*KINDS, *OTHERS]
    g = torch.Generator().manual_seed(9)
    logits = torch.randn(len(rows), 20_000, generator=g) * 3
    columns = StepColumns.of([StepRow(i, tokens=i, surprisal=2.5 * i) for i in range(len(rows))])
    for form in (native, tensor):
        together = form(logits, rows, columns)
        for i, row in enumerate(rows):
            one = slice(i, i + 1)
            (alone,) = form(logits[one], [row], StepColumns(columns.data[one]))
            wide = together[i]
            assert alone._replace(candidates=()) == wide._replace(candidates=())


@pytest.mark.parametrize("policy", NEUTRAL)
def test_a_policy_with_neutral_numbers_is_fixed(policy: PolicyName) -> None:
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(200, 500, generator=g) * 3
    sampling = [
        SamplingParams(seed=i, temperature=(0.7, 1.0, 1.3)[i % 3], top_k=60, min_p=0.01) for i in range(200)
    ]
    neutral = PolicyConfig(policy, overrides=NEUTRAL[policy])
    for form in (native, tensor):
        want = form(logits, [(s, PolicyConfig("fixed")) for s in sampling], at(3, 200))
        assert form(logits, [(s, neutral) for s in sampling], at(3, 200)) == want


@pytest.mark.parametrize("policy", ONE_FORMULA)
def test_a_shift_of_the_logits_changes_nothing(policy: PolicyName) -> None:
    x = np.random.default_rng(6).standard_normal(300) * 2
    x[::7] = -math.inf
    want = set_by(policy, x, surprisal=7.0, tokens=2)
    assert set_by(policy, x + 500, surprisal=7.0, tokens=2) == pytest.approx(want, rel=1e-9)
    assert set_by(policy, x[x > -math.inf], surprisal=7.0, tokens=2) == pytest.approx(want, rel=1e-9), (
        "a mask"
    )


@pytest.mark.parametrize("policy", ONE_FORMULA)
def test_signals_are_those_of_policy_fixed(policy: PolicyName) -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(8)) * 2
    sampling = SamplingParams(seed=1, temperature=0.5)
    (got, want) = (native(logits, [(sampling, PolicyConfig(p))] * 20, at(0, 20)) for p in (policy, "fixed"))
    assert [row.signals[:2] for row in got] == [row.signals[:2] for row in want]


@pytest.mark.parametrize("policy", ONE_FORMULA)
def test_temperature_zero_is_greedy(policy: PolicyName) -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(8))
    rows = [(SamplingParams(seed=i, temperature=0.0), PolicyConfig(policy)) for i in range(20)]
    for form in (native, tensor):
        assert [row.token for row in form(logits, rows, at(0, 20))] == logits.argmax(-1).tolist()


@pytest.mark.parametrize(("value", "flag"), [(math.nan, 1), (math.inf, 2), (-math.inf, 4)])
def test_a_bad_row_is_flagged_and_alone(value: float, flag: int) -> None:
    rows: Rows = [(SamplingParams(seed=1), PolicyConfig(policy)) for policy in ONE_FORMULA for _ in range(2)]
    logits = torch.randn(len(rows), 97, generator=torch.Generator().manual_seed(8))
    clean = [form(logits, rows, at(0, len(rows))) for form in (native, tensor)]
    logits[::2, slice(None) if flag == 4 else 40] = value
    for form, before in zip((native, tensor), clean, strict=True):
        got = form(logits, rows, at(0, len(rows)))
        assert [row.flags for row in got] == [flag, 0] * len(ONE_FORMULA)
        assert got[1::2] == before[1::2]
        (fixed,) = form(logits[:1], [(SamplingParams(seed=1), PolicyConfig("fixed"))], at(0, 1))
        for row in got[::2]:
            assert (row.token, row.temperature, row.min_p) == pytest.approx(
                (fixed.token, fixed.temperature, fixed.min_p), nan_ok=True
            )


def test_the_limits_of_the_temperature_hold() -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(8)) * 3
    for overrides, want in (
        ({"target_entropy": 0.0}, 0.01),
        ({"target_entropy": 64.0, "temperature_max": 1.25}, 1.25),
        ({"target_entropy": 0.2, "temperature_min": 0.9}, 0.9),
    ):
        rows: Rows = [(SamplingParams(), PolicyConfig("target_entropy", overrides=overrides))]
        for form in (native, tensor):
            (row,) = form(logits, rows, at(0, 1))
            assert row.temperature == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", [name for row in ONE_FORMULA.values() for name in row.names])
def test_a_number_out_of_range_is_named_with_its_limits(name: str) -> None:
    low, high = PARAM_RANGES[name]
    for value in (low - 0.5, high + 1):
        with pytest.raises(ValueError, match=rf"overrides\.{name}: must be between {low} and {high}"):
            validate_request(SamplingParams(), PolicyConfig("edt", overrides={name: value}), None)
    for value in (low, high):
        validate_request(SamplingParams(), PolicyConfig("edt", overrides={name: value}), None)


def test_the_surprisal_of_a_line_is_where_the_workers_read_it() -> None:
    logits = torch.randn(5, 97, generator=torch.Generator().manual_seed(8))
    lines = SampledBatch([(SILENT, PolicyConfig("mirostat"))] * 5, None).step(logits, None, None, at(0, 5))
    at_name = SIGNAL_NAMES.index("surprisal")
    assert lines[:, SURPRISAL].tolist() == [row.signals[at_name] for row in unpack(lines)]


def test_what_is_not_measured_cannot_be_decided_by() -> None:
    batch = SampledBatch([(SamplingParams(), PolicyConfig("top_h"))], None)
    with pytest.raises(ValueError, match="'fixed'"):
        batch.step(torch.zeros(1, 9), None, None, at(0, 1), measure=False)
