"""One sampling step: what it measures, what it draws, and that rows do not touch each other."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from entropick_kernels.logits_stats.reference import (
    excess_surprisal,
    logits_entropy,
    logits_varentropy,
    surprisal,
)
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.packed import TokenRow, unpack
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import ATTENTION_SIGNALS, POLICY_SIGNALS, SIGNAL_NAMES, STEP_SIGNALS
from entropick_sampler.step import SamplerRows, sample_step
from entropick_sampler.strategy import Strategy

FIXED = PolicyConfig(policy="fixed")
SEED = PolicyConfig(preset="seed")
CALIBRATED = PolicyConfig(preset="calibrated")
V = 97
PROFILE = Profile(
    "m",
    "d",
    (0,),
    "2026-01-01",
    1000,
    {s.name: tuple(8 * level for level in QUANTILE_LEVELS) for s in POLICY_SIGNALS},
    dict(zip(THRESHOLDS, (0.3, 0.5, 4.0, 1.0, 3.0, 2.0, 3.0, 2.0), strict=True)),
)


def run(
    logits: Tensor,
    rows: list[tuple[SamplingParams, PolicyConfig]],
    *,
    attention: Tensor | None = None,
    position: int = 0,
    forced: list[int] | None = None,
    clarify: list[int] | None = None,
) -> list[TokenRow]:
    none = [-1] * len(rows)
    columns = StepColumns.of(
        [StepRow(position, *tokens) for tokens in zip(forced or none, clarify or none, strict=True)]
    )
    return unpack(sample_step(logits, attention, None, SamplerRows.build(rows, PROFILE), columns).pack())


def at(position: int, rows: int) -> StepColumns:
    return StepColumns.of([StepRow(position)] * rows)


def random_case(n: int = 16) -> tuple[Tensor, Tensor, list[tuple[SamplingParams, PolicyConfig]]]:
    g = torch.Generator().manual_seed(11)
    logits = torch.randn(n, V, generator=g) * (torch.rand(n, 1, generator=g) * 6)
    attention = torch.rand(n, len(ATTENTION_SIGNALS), generator=g)
    kinds = (
        (SamplingParams(seed=1), FIXED),
        (SamplingParams(seed=2, temperature=0.0), SEED),
        (SamplingParams(seed=3), SEED),
        (SamplingParams(seed=4, top_k=0, top_p=0.7), CALIBRATED),
        (SamplingParams(seed=-5, temperature=0.6, top_k=7, min_p=0.05), FIXED),
    )
    return logits, attention, [kinds[i % len(kinds)] for i in range(n)]


def test_signals_are_those_of_the_references() -> None:
    logits, attention, rows = random_case()
    got = run(logits, rows, attention=attention)
    for i, row in enumerate(got):
        signals = dict(zip((s.name for s in STEP_SIGNALS), row.signals, strict=True))
        exact = logits[i].double()
        assert signals["logits_entropy"] == pytest.approx(float(logits_entropy(exact)), abs=1e-5)
        assert signals["logits_varentropy"] == pytest.approx(
            float(logits_varentropy(exact)), rel=1e-4, abs=1e-5
        )
        assert signals["surprisal"] == pytest.approx(float(surprisal(exact, row.token)), rel=1e-4, abs=1e-5)
        assert signals["excess_surprisal"] == pytest.approx(
            float(excess_surprisal(exact, row.token)), rel=1e-4, abs=2e-5
        )
        assert row.logprob == pytest.approx(-signals["surprisal"] * math.log(2), abs=1e-6)
        assert [signals[s.name] for s in ATTENTION_SIGNALS] == pytest.approx(attention[i].tolist())


def test_a_row_alone_is_the_same_row_in_a_batch() -> None:
    logits, attention, rows = random_case()
    together = run(logits, rows, attention=attention)
    for i in range(len(rows)):
        (alone,) = run(logits[i : i + 1], [rows[i]], attention=attention[i : i + 1])
        assert alone.token == together[i].token
        assert alone.strategy == together[i].strategy
        assert alone.signals == pytest.approx(together[i].signals, rel=1e-6, abs=1e-6)
        assert alone.candidates == together[i].candidates[: len(alone.candidates)]


def test_what_is_not_measured_is_absent() -> None:
    logits, _, rows = random_case()
    got = run(logits, rows)
    for row in got:
        for signal, value in zip(STEP_SIGNALS, row.signals, strict=True):
            assert (value is None) == (signal in ATTENTION_SIGNALS)


def test_a_signal_that_does_not_exist_is_absent_and_the_others_decide() -> None:
    """NaN for an attention signal: the first token of a text has no token before it."""
    logits, attention, rows = random_case()
    missing = attention.clone()
    missing[::2, -1] = math.nan
    for i, (row, whole) in enumerate(
        zip(run(logits, rows, attention=missing), run(logits, rows, attention=attention), strict=True)
    ):
        assert row.signals[:-1] == whole.signals[:-1]
        assert (row.signals[-1] is None) == (i % 2 == 0)
        assert row._replace(signals=()) == whole._replace(signals=())


def test_seed_and_position_decide_the_draw() -> None:
    logits = torch.zeros(1, V)
    rows = [(SamplingParams(seed=9), FIXED)]
    tokens = [run(logits, rows, position=p)[0].token for p in range(32)]
    again = [run(logits, rows, position=p)[0].token for p in range(32)]
    other = [run(logits, [(SamplingParams(seed=10), FIXED)], position=p)[0].token for p in range(32)]
    assert tokens == again
    assert len(set(tokens)) > 16
    assert tokens != other


def test_temperature_zero_is_greedy_and_has_no_strategy() -> None:
    logits, attention, _ = random_case()
    got = run(logits, [(SamplingParams(temperature=0.0), SEED)] * 16, attention=attention)
    assert [row.token for row in got] == logits.argmax(-1).tolist()
    assert {row.strategy for row in got} == {None}


def test_the_best_of_the_candidates_wins() -> None:
    logits = torch.linspace(0, 2, V).repeat(4, 1)  # H about 6.4, V below 5: ADAPTIVE under seed
    rows = [(SamplingParams(seed=i), SEED) for i in range(4)]
    got = run(logits, rows)
    for row in got:
        assert row.strategy is Strategy.ADAPTIVE
        assert row.n_candidates == len(row.candidates) == 12
        assert row.token == max(row.candidates, key=lambda c: c[1])[0]
        scores = [score - logprob for _, logprob, score in row.candidates]
        assert scores == pytest.approx([scores[0]] * 12, abs=1e-5), (
            "the confidence is the step's, not a token's"
        )
    (fewer,) = run(
        logits[:1], [(SamplingParams(seed=0), PolicyConfig(preset="seed", overrides={"n_candidates": 1}))]
    )
    assert fewer.token == got[0].candidates[0][0]


def test_clarify_begins_the_text_unless_it_cannot() -> None:
    logits = torch.zeros(2, V)
    logits[:, 40:] = -math.inf  # uniform over 40: H 5.3, V 0
    rows = [(SamplingParams(seed=1), SEED)] * 2
    got = run(logits, rows, clarify=[50, -1])
    assert [row.inserted for row in got] == [True, False]
    assert got[0].token == 50
    assert got[0].strategy is got[1].strategy is Strategy.CLARIFY


def test_overrides_hold_under_fixed_too() -> None:
    """A temperature by override is a temperature, whoever decides."""
    logits, _, _ = random_case()
    cold = PolicyConfig(policy="fixed", overrides={"temperature": 0.0})
    got = run(logits, [(SamplingParams(temperature=0.9), cold)] * 16)
    assert [row.token for row in got] == logits.argmax(-1).tolist()


def test_logprobs_are_exact_at_large_logits() -> None:
    logits, _, _ = random_case()
    exact = torch.log_softmax(logits.double() + 1e4, -1)
    # what float32 makes of the shifted logits is the distribution that is measured
    shifted = (logits.double() + 1e4).float()
    want = torch.log_softmax(shifted.double(), -1)
    got = run(shifted, [(SamplingParams(seed=4), FIXED)] * 16)
    for i, row in enumerate(got):
        assert row.logprob == pytest.approx(float(want[i, row.token]), abs=2e-6)
        assert row.logprob == pytest.approx(float(exact[i, row.token]), abs=5e-3)


def test_forced_tokens_are_emitted_and_measured() -> None:
    logits, attention, rows = random_case()
    got = run(logits, rows, attention=attention, forced=[3] * 16, clarify=[5] * 16)
    assert {row.token for row in got} == {3}
    assert not any(row.inserted for row in got)
    surprisals = [row.signals[SIGNAL_NAMES.index("surprisal")] for row in got]
    assert surprisals == pytest.approx([float(surprisal(x.double(), 3)) for x in logits], rel=1e-4)


def test_a_row_with_nan_is_flagged_and_alone() -> None:
    logits, attention, rows = random_case()
    clean = run(logits, rows, attention=attention)
    logits[5, 7] = math.nan
    got = run(logits, rows, attention=attention)
    assert [bool(row.flags) for row in got] == [i == 5 for i in range(16)]
    for i, (a, b) in enumerate(zip(clean, got, strict=True)):
        if i != 5:
            assert a == b


def test_branches_of_a_sequence_draw_with_numbers_of_their_own() -> None:
    rows = [(SamplingParams(seed=1), FIXED)] * 4
    built = SamplerRows.build(rows, None, streams=[0, 1, 1, 2])
    logits = torch.zeros(4, V)
    steps = [sample_step(logits, None, None, built, at(position, 4)) for position in range(8)]
    draws = [step.ids[:, 0].tolist() for step in steps]
    root, one, again, two = zip(*draws, strict=True)
    assert one == again
    assert len({root, one, two}) == 3
    alone = [run(logits[:1], rows[:1], position=p) for p in range(8)]
    assert root == tuple(row.token for (row,) in alone)


def test_first_tokens_of_branches_stand_beside_the_row_and_change_no_other() -> None:
    logits, attention, rows = random_case()
    branched = [
        (s, replace(c, branch=BranchConfig(width=4)) if c.policy == "entropix" else c) for s, c in rows
    ]
    for position, stream in ((0, 0), (1, 0), (2, 3 << 16), (3, 0xFFFF << 16)):
        own = SamplerRows.build(rows, PROFILE, streams=[stream] * 16)
        built = SamplerRows.build(branched, PROFILE, streams=[stream] * 16)
        columns = at(position, 16)
        plain = unpack(sample_step(logits, attention, None, own, columns).pack())
        got = unpack(sample_step(logits, attention, None, built, columns).pack(), built.candidates)
        assert [row._replace(firsts=()) for row in got] == plain
        assert all(len(row.firsts) == 3 for row in got)
        for number in (1, 2, 3):
            # what a branch begins with is what its own row would draw first
            other = SamplerRows.build(rows, PROFILE, streams=[stream + number] * 16)
            drawn = unpack(sample_step(logits, attention, None, other, columns).pack())
            assert [row.firsts[number - 1] for row in got] == [row.candidates[0] for row in drawn]
    alone = SamplerRows.build([(SamplingParams(temperature=0.0), branched[-1][1])], PROFILE)
    assert alone.draws.shape == (1, 1), "a row without a strategy never branches"
