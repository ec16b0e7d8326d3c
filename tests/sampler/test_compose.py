"""How a batch is composed: what it costs, what it promises the draw, and which requests are refused."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from entropick_kernels.sample.torch_impl import SHORT_LIST
from entropick_sampler.batch import SampledBatch
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import compose, validate_request
from entropick_sampler.packed import unpack
from entropick_sampler.params import PolicyConfig, PolicyName, PresetName, SamplingParams
from entropick_sampler.policy import PolicyRows, decide
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.step import SamplerRows, sample_step

S = len(POLICY_SIGNALS)
SEED = PolicyConfig(preset="seed")
FIXED = PolicyConfig(policy="fixed")
CALIBRATED = PolicyConfig(preset="calibrated")
PROFILE = Profile(
    "m",
    "d",
    (0,),
    "2026-01-01",
    1000,
    {s.name: tuple(6 * level for level in QUANTILE_LEVELS) for s in POLICY_SIGNALS},
    dict(zip(THRESHOLDS, (0.3, 0.5, 2.5, 4.0, 3.0, 2.0, 3.0, 2.0), strict=True)),
)


class Operations(TorchDispatchMode):
    """Counts the tensor operations of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **kwargs or {})


def test_composing_and_validating_on_the_cpu_run_no_tensor_operation() -> None:
    rows = [(SamplingParams(seed=i), (SEED, FIXED, CALIBRATED)[i % 3]) for i in range(16)]
    with Operations() as operations:
        SampledBatch(rows, PROFILE)
        for sampling, policy in rows:
            validate_request(sampling, policy, PROFILE)
    assert operations.names == []


def test_validation_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from entropick_sampler.compose import validate_request\n"
        "from entropick_sampler.params import PolicyConfig, SamplingParams\n"
        "validate_request(SamplingParams(), PolicyConfig(preset='seed'), None)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


BAD = [
    (SamplingParams(), CALIBRATED, "needs a profile"),
    (SamplingParams(), PolicyConfig(preset="seed", overrides={"top_p": 0.0}), r"overrides\.top_p"),
    (SamplingParams(), PolicyConfig(policy="fixed", overrides={"n_candidates": True}), "must be a number"),
    (SamplingParams(), PolicyConfig(preset="seed", overrides={"top_k": []}), "must be a number"),  # type: ignore[dict-item]
    (SamplingParams(seed=1 << 63), SEED, "64 bits"),
    (SamplingParams(seed=-(1 << 63) - 1), FIXED, "64 bits"),
]


@pytest.mark.parametrize(("sampling", "policy", "needle"), BAD)
def test_validation_raises_what_composing_would(
    sampling: SamplingParams, policy: PolicyConfig, needle: str
) -> None:
    # a row that was composed before must not let one through that only looks the same
    compose([(SamplingParams(), PolicyConfig(policy="fixed", overrides={"n_candidates": 1}))], None)
    with pytest.raises(ValueError, match=needle):
        validate_request(sampling, policy, None)
    with pytest.raises(ValueError, match=needle):
        SamplerRows.build([(sampling, policy)], None)


def test_the_largest_seeds_are_served() -> None:
    rows = [(SamplingParams(seed=seed), SEED) for seed in (-(1 << 63), (1 << 63) - 1)]
    for row in rows:
        validate_request(*row, None)
    assert compose(rows, None).records["seed"].tolist() == [-(1 << 63), (1 << 63) - 1]


def test_float64_logits_are_served_by_the_same_batch() -> None:
    rows = [(SamplingParams(seed=1), SEED), (SamplingParams(seed=2), FIXED)]
    logits = torch.randn(2, 97, generator=torch.Generator().manual_seed(1)) * 3
    columns = StepColumns.of([StepRow(3)] * 2)
    batch = SampledBatch(rows, None, streams=[1 << 16, 2])
    native, tensors = (
        unpack(batch.step(x, None, None, columns), batch.candidates) for x in (logits, logits.double())
    )
    assert [r.token for r in native] == [r.token for r in tensors]


def largest(*rows: tuple[SamplingParams, PolicyConfig]) -> int | None:
    return compose(rows, PROFILE).max_top_k


def test_the_largest_top_k_is_that_of_the_rows() -> None:
    greedy = SamplingParams(temperature=0.0)
    assert largest((SamplingParams(top_k=40, top_p=0.9), FIXED)) == 40
    assert largest((SamplingParams(top_k=40), FIXED), (SamplingParams(top_k=7), FIXED)) == 40
    assert largest((SamplingParams(top_k=3), FIXED)) == 3
    assert largest((SamplingParams(top_k=40), CALIBRATED)) == 60
    assert largest((SamplingParams(top_k=2), CALIBRATED)) == 3
    assert largest((SamplingParams(), SEED)) == 100, "the guide limits ADAPTIVE's top_k to 100"
    # a filter that is off, and rows that draw nothing
    assert largest((SamplingParams(), FIXED)) == largest((greedy, FIXED)) == largest() == 0
    assert largest((SamplingParams(top_p=0.9), FIXED)) is None
    assert largest((SamplingParams(), FIXED), (SamplingParams(top_k=40), FIXED)) is None
    assert largest((greedy, FIXED), (SamplingParams(top_k=40), FIXED)) == 40


@settings(max_examples=300, deadline=None)
@given(
    policy=st.sampled_from(("entropix", "fixed")),
    preset=st.sampled_from(("seed", "calibrated")),
    top_k=st.integers(-1, 130),
    top_p=st.sampled_from((0.3, 1.0)),
    values=st.lists(st.floats(0, 30), min_size=S, max_size=S),
)
def test_no_strategy_exceeds_the_largest_top_k(
    policy: PolicyName, preset: PresetName, top_k: int, top_p: float, values: list[float]
) -> None:
    row = SamplingParams(top_k=top_k, top_p=top_p), PolicyConfig(policy, preset)
    composition = compose([row], PROFILE)
    rows = PolicyRows.of(composition, PROFILE)
    stats = StepStats(torch.tensor([values], dtype=torch.float64))
    drawn = decide(stats, StepColumns.of([StepRow(0)]).memory, rows) if policy == "entropix" else rows.off
    if composition.max_top_k is None:
        assert top_k <= 0
    elif composition.max_top_k == 0:
        assert int(drawn.top_k) <= 0
        assert float(drawn.top_p) >= 1.0
    else:
        assert 0 < int(drawn.top_k) <= composition.max_top_k


@pytest.mark.parametrize(
    ("sampling", "policy"),
    [
        (SamplingParams(top_k=40, top_p=0.9), FIXED),
        (SamplingParams(top_k=SHORT_LIST), FIXED),
        (SamplingParams(top_k=40), CALIBRATED),
        (SamplingParams(), FIXED),
    ],
)
def test_no_row_is_sorted_whole_where_none_needs_it(
    monkeypatch: pytest.MonkeyPatch, sampling: SamplingParams, policy: PolicyConfig
) -> None:
    """The general draw sorts whole rows; the draw of a short top_k, and of no filter, never does."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a whole row was sorted")

    monkeypatch.setattr(torch.Tensor, "sort", refuse)
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(1)) * 3
    greedy = SamplingParams(temperature=0.0), SEED
    rows = SamplerRows.build([(sampling, policy)] * 3 + [greedy], PROFILE)
    sample_step(logits, torch.rand(4, S - 2), None, rows, StepColumns.of([StepRow(0)] * 4), "torch")
