"""What ``decide`` owes to the machine: exact roundings, and nothing read back from the device."""

from dataclasses import replace

import pytest
import torch

from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.compose import Composition, RowParams
from entropick_sampler.params import SEED_PARAMS
from entropick_sampler.policy import PolicyRows, decide
from entropick_sampler.profile import QUANTILE_LEVELS, THRESHOLDS, Profile
from entropick_sampler.signals import POLICY_SIGNALS
from entropick_sampler.stats import StepStats
from entropick_sampler.strategy import Strategy

NAMES = [signal.name for signal in POLICY_SIGNALS]


@pytest.mark.parametrize(
    ("strategy", "value", "want"),
    [
        (Strategy.ADAPTIVE, 6.5, 6),
        (Strategy.ADAPTIVE, 7.5, 8),
        (Strategy.ADAPTIVE, 7.4999999, 7),
        (Strategy.EXPLORE, 7.9999999, 7),
        (Strategy.EXPLORE, 8.0, 8),
    ],
)
def test_top_k_is_rounded_or_cut_off(strategy: Strategy, value: float, want: int) -> None:
    """ADAPTIVE rounds half to even, EXPLORE drops the fraction; what stands beside it keeps every bit."""
    params = RowParams.of(replace(SEED_PARAMS, temperature=0.7), True, None)
    rows = PolicyRows.of(Composition.of([params], None), None)
    rows.coefficients.zero_()
    rows.constants[0, strategy] = torch.tensor([1 / 3, 0.7, value, 0.1], dtype=torch.float64)
    values = torch.zeros(1, len(NAMES), dtype=torch.float64)
    values[0, :2] = torch.tensor([1.0, 6.0 if strategy is Strategy.EXPLORE else 1.0])
    got = decide(StepStats(values), StepColumns.of([StepRow(0)]).memory, rows)
    assert Strategy(int(got.strategy)) is strategy
    assert int(got.top_k) == want
    assert (float(got.temperature), float(got.top_p), float(got.min_p)) == (1 / 3, 0.7, 0.1)


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors without data: a decision that needed a value on the host would raise."""
    profile = Profile(
        "m",
        "d",
        (0,),
        "2026-01-01",
        1000,
        dict.fromkeys(NAMES, QUANTILE_LEVELS),
        dict.fromkeys(THRESHOLDS, 1.0),
        clarify_weights={"agreement": 2.0},
    )
    params = [RowParams.of(SEED_PARAMS, True, None), RowParams.of(profile.params, True, profile)]
    rows = PolicyRows.of(Composition.of(params, profile), profile, "meta")
    memory = StepColumns.of([StepRow(0)] * 2).to("meta").memory
    values = torch.zeros(2, len(NAMES), device="meta")
    for valid in (None, torch.zeros(2, len(NAMES), dtype=torch.bool, device="meta")):
        decision = decide(StepStats(values, valid), memory, rows, rows.ranked)
        assert {t.shape for t in decision} == {(2,)}
        assert {t.device.type for t in decision} == {"meta"}
