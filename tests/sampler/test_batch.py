"""The native sampling step against the tensor form, and how a batch is composed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropick_sampler.batch import SampledBatch
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.columns import StepColumns
from entropick_sampler.packed import TokenRow, unpack
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import ATTENTION_SIGNALS, POLICY_SIGNALS
from entropick_sampler.step import SamplerRows, sample_step

SEED = PolicyConfig(preset="seed")
CALIBRATED = PolicyConfig(preset="calibrated")
FIXED = PolicyConfig(policy="fixed")
KINDS = (
    (SamplingParams(seed=1), FIXED),
    (SamplingParams(seed=2, temperature=0.0), SEED),
    (SamplingParams(seed=3), SEED),
    (SamplingParams(seed=4, top_k=0, top_p=0.7), CALIBRATED),
    (SamplingParams(seed=-5, temperature=0.6, top_k=7, min_p=0.05), FIXED),
    (SamplingParams(seed=6), PolicyConfig(preset="calibrated", branch=BranchConfig(width=3))),
    (SamplingParams(seed=7), PolicyConfig(preset="seed", overrides={"clarify_budget": 2})),
    (
        SamplingParams(seed=8),
        PolicyConfig(preset="seed", overrides={"loop_length": 3, "greedy_entropy": 6.0}),
    ),
)
PROFILE = Profile(
    "m",
    "d",
    (0,),
    "2026-01-01",
    1000,
    {s.name: tuple(6 * level for level in QUANTILE_LEVELS) for s in POLICY_SIGNALS},
    dict(zip(THRESHOLDS, (0.3, 0.5, 2.5, 4.0, 3.0, 2.0, 3.0, 2.0), strict=True)),
    clarify_weights={"logits_entropy": 1.0, "agreement": -2.0},
    clarify_bias=-1.0,
)
A = len(ATTENTION_SIGNALS)
PARTS = ("token", "strategy", "inserted", "flags", "n_candidates", "top_k")
FIGURES = ("logprob", "temperature", "top_p", "min_p")


def case(seed: int, rows: int, vocabulary: int) -> tuple[Tensor, Tensor, StepColumns]:
    """Logits, attention, and the new inputs of the rows."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=g) * (torch.rand(rows, 1, generator=g) * 6)
    attention = torch.rand(rows, A, generator=g)
    columns = [torch.randint(0, 40, (rows,), generator=g)]
    columns += [torch.randint(-6, 3, (rows,), generator=g).clamp_min(-1) for _ in range(2)]
    columns += [torch.randint(0, 6, (rows,), generator=g)]
    columns += [torch.randint(0, 3, (rows,), generator=g), torch.randint(0, 80, (rows,), generator=g)]
    surprisal = torch.rand(rows, generator=g, dtype=torch.float64) * 3 * columns[0]
    columns += [columns[0], surprisal.view(torch.int64)]
    return logits, attention, StepColumns(torch.stack(columns, 1))


def step(
    batch: SampledBatch,
    logits: Tensor,
    attention: Tensor | None,
    columns: StepColumns,
    measure: bool = True,
    attended: Tensor | None = None,
) -> list[TokenRow]:
    return unpack(batch.step(logits, attention, attended, columns, measure), batch.candidates)


def same(got: TokenRow, want: TokenRow) -> None:
    for part in PARTS:
        assert getattr(got, part) == getattr(want, part), part
    for name in FIGURES:
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-6, abs=1e-6), name
    assert [x is None for x in got.signals] == [x is None for x in want.signals]
    known = [(x, y) for x, y in zip(got.signals, want.signals, strict=True) if x is not None]
    assert [x for x, _ in known] == pytest.approx([y for _, y in known], rel=1e-5, abs=1e-6)
    for mine, theirs in zip(got.candidates + got.firsts, want.candidates + want.firsts, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kinds=st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=9),
    vocabulary=st.sampled_from((5, 97, 2500)),
    attended=st.sampled_from(("all", "some", "none")),
)
def test_native_step_is_the_tensor_form(seed: int, kinds: list[int], vocabulary: int, attended: str) -> None:
    rows = [KINDS[k] for k in kinds]
    n = len(rows)
    logits, attention, columns = case(seed, n, vocabulary)
    # the first token of a text has no attention to a previous one
    attention[seed % 4 :: 4, -1] = float("nan")
    where = torch.arange(n) % 2 == 0 if attended == "some" else None
    seen = None if attended == "none" else attention
    before = columns.data.clone()
    native = SampledBatch(rows, PROFILE)
    # the tensor form with the native kernels: torch's weights differ in the last bits, and tokens might
    built = SamplerRows.build(rows, PROFILE)
    result = sample_step(logits, seen, where, built, columns)
    got = step(native, logits, seen, columns, attended=where)
    for mine, theirs in zip(got, unpack(result.pack(), built.candidates), strict=True):
        same(mine, theirs)
    assert torch.equal(columns.data, before), "a step keeps no memory"


def test_every_strategy_and_an_insertion_were_compared() -> None:
    """The cases above reach what they are to compare."""
    seen = set()
    inserted = 0
    for seed in range(200):
        rows = [KINDS[(seed + i) % len(KINDS)] for i in range(8)]
        logits, attention, columns = case(seed, 8, 97)
        for row in step(SampledBatch(rows, PROFILE), logits, attention, columns):
            seen.add(row.strategy)
            inserted += row.inserted
    assert len(seen) == 6
    assert inserted


def test_a_row_is_bit_equal_alone_and_in_a_batch() -> None:
    rows = [KINDS[i % len(KINDS)] for i in range(32)]
    logits, attention, columns = case(3, 32, 40_000)  # enough for several threads
    together = step(SampledBatch(rows, PROFILE), logits, attention, columns)
    for i, row in enumerate(rows):
        one = slice(i, i + 1)
        batch = SampledBatch([row], PROFILE)
        (alone,) = step(batch, logits[one], attention[one], StepColumns(columns.data[one]))
        wider = together[i]
        assert alone == wider._replace(firsts=wider.firsts[: len(alone.firsts)])


@pytest.mark.parametrize(("value", "flag"), [(float("nan"), 1), (float("inf"), 2)])
def test_bad_logits_are_flagged(value: float, flag: int) -> None:
    logits, attention, columns = case(1, 3, 97)
    logits[1, 40] = value
    batch = SampledBatch([KINDS[2]] * 3, PROFILE)
    assert [r.flags for r in step(batch, logits, attention, columns)] == [0, flag, 0]
    logits[1] = -torch.inf
    assert [r.flags for r in step(batch, logits, attention, columns)] == [0, 4, 0]


def test_without_measuring_the_draws_are_the_same_and_signals_absent() -> None:
    rows = [KINDS[0], KINDS[4]] * 4
    logits, attention, columns = case(5, 8, 3000)
    batch = SampledBatch(rows, None)
    measured = step(batch, logits, attention, columns)
    plain = step(batch, logits, attention, columns, False)
    assert [r.token for r in plain] == [r.token for r in measured]
    assert [r.logprob for r in plain] == pytest.approx([r.logprob for r in measured], rel=1e-6, abs=1e-6)
    assert all(set(r.signals) == {None} for r in plain)
    for value, flag in ((float("nan"), 1), (float("inf"), 2)):
        logits[2, 7] = value
        assert step(batch, logits, attention, columns, False)[2].flags == flag


def test_a_policy_that_decides_must_be_measured() -> None:
    logits, attention, columns = case(5, 1, 97)
    with pytest.raises(ValueError, match="'fixed'"):
        step(SampledBatch([KINDS[2]], PROFILE), logits, attention, columns, False)
    with pytest.raises(ValueError, match="native"):
        step(SampledBatch([KINDS[0]], PROFILE, kernels="torch"), logits, attention, columns, False)


def test_logits_of_another_height_are_refused() -> None:
    logits, attention, columns = case(5, 2, 97)
    batch = SampledBatch([KINDS[0]], PROFILE)
    with pytest.raises(ValueError, match="1 rows"):
        step(batch, logits, attention, columns)
