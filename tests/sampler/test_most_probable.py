"""The most probable tokens before and after the sampler, against the float64 reference of the filters."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from entropick_kernels.sample.reference import filter_probabilities_reference
from entropick_sampler.batch import SampledBatch
from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.columns import StepColumns, StepRow
from entropick_sampler.most_probable import Draw, most_probable, probable_tokens
from entropick_sampler.packed import unpack
from entropick_sampler.params import PolicyConfig, SamplingParams

V = 1500
TEMPERATURES = (0.3, 1.0, 2.5)
FILTERS = ((1.0, 0, 0.0), (0.9, 0, 0.0), (0.999, 40, 0.0), (1.0, 7, 0.1), (0.7, 400, 0.02), (0.97, 0, 1e-4))


def logits_of(seed: int, size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def check(x: np.ndarray, draw: Draw, drawn: tuple[int, ...] = (), count: int = 20) -> set[str | None]:
    """Compares with the reference, which knows no short cuts. Returns the filters that cut something."""
    rows = most_probable(x, draw, drawn, count)
    wide = x.astype(np.float64)
    plain = np.exp(wide - wide.max())
    plain /= plain.sum()
    warm = np.exp((wide - wide.max()) / draw.temperature)
    warm /= warm.sum()
    steps = {
        "top_k": filter_probabilities_reference(warm, draw.top_k),
        "top_p": filter_probabilities_reference(warm, draw.top_k, draw.top_p),
        "min_p": filter_probabilities_reference(warm, draw.top_k, draw.top_p, draw.min_p),
    }
    order = [i for i in np.argsort(-wide, kind="stable").tolist() if wide[i] > -math.inf]
    wanted = order[:count] + [i for i in order[count:] if i in drawn]
    assert [row.token_id for row in rows] == wanted
    for row in rows:
        cut = next((name for name, p in steps.items() if p[row.token_id] == 0), None)
        assert row.cut_by == cut
        assert row.probability == pytest.approx(plain[row.token_id], rel=1e-12)
        assert row.final_probability == pytest.approx(steps["min_p"][row.token_id], rel=1e-12, abs=0)
    return {row.cut_by for row in rows}


@pytest.mark.parametrize(("temperature", "filters"), list(product(TEMPERATURES, FILTERS)))
def test_against_the_reference(temperature: float, filters: tuple[float, int, float]) -> None:
    for seed in range(5):
        check(logits_of(seed), Draw(temperature, *filters), drawn=(3, 700))


def test_every_filter_cuts_something() -> None:
    x = logits_of(1)
    assert check(x, Draw(1.0, 1.0, 7, 0.0)) == {None, "top_k"}
    assert check(x, Draw(1.0, 0.5, 12, 0.0)) == {None, "top_k", "top_p"}
    assert check(x, Draw(1.0, 0.9, 15, 0.2)) == {None, "top_k", "top_p", "min_p"}


@pytest.mark.parametrize("spread", [0.0, 0.01, 30.0])
@pytest.mark.parametrize("filters", FILTERS)
def test_flat_and_peaked(spread: float, filters: tuple[float, int, float]) -> None:
    """A flat distribution keeps more tokens than are sorted at first; of ties the lower id comes first."""
    x = (np.random.default_rng(0).normal(0, 1, V) * spread).astype(np.float32).round(3)
    check(x, Draw(1.0, *filters), drawn=(V - 1,))


def test_fewer_tokens_than_asked_for_and_masked_tokens() -> None:
    x = np.array([1.0, -np.inf, 2.0, 1.0], np.float32)
    check(x, Draw(1.0, 0.9, 2, 0.0))
    assert [row.token_id for row in most_probable(x, Draw(1.0, 1.0, 0, 0.0))] == [2, 0, 3]
    check(x, Draw(1.0, 1.0, 0, 0.0), count=2)


def test_at_temperature_0_only_the_most_probable_token_is_left() -> None:
    x = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    rows = most_probable(x, Draw(0.0, 0.9, 50, 0.02))
    assert [(row.token_id, row.final_probability, row.cut_by) for row in rows] == [
        (1, 1.0, None),
        (2, 0.0, "temperature"),
        (3, 0.0, "temperature"),
        (0, 0.0, "temperature"),
    ]
    assert sum(row.probability for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_a_drawn_token_is_told_of_and_was_not_cut(kernels: str) -> None:
    """Both ways of the step: what they drew is among the tokens that the draw could give."""
    fixed, seed = PolicyConfig(policy="fixed"), PolicyConfig(preset="seed", branch=BranchConfig())
    asked = [
        (SamplingParams(1.5, 0.8, 30, 0.05), fixed),
        (SamplingParams(1.0, 1.0, 0, 0.0), fixed),
        (SamplingParams(0.0), fixed),
        (SamplingParams(), seed),
        (SamplingParams(1.2), PolicyConfig(policy="top_n_sigma")),
        (SamplingParams(), PolicyConfig(policy="target_entropy")),
    ]
    batch = SampledBatch(asked, None, kernels=kernels)  # type: ignore[arg-type]
    for position in range(20):
        logits = torch.tensor(np.stack([logits_of(100 * position + i) for i in range(len(asked))]))
        columns = StepColumns.of([StepRow(position)] * len(asked))
        rows = unpack(batch.step(logits, torch.rand(len(asked), 7), None, columns), batch.candidates)
        for x, row in zip(logits.numpy(), rows, strict=True):
            told = {p.token_id: p for p in probable_tokens(x, row, len(row.firsts))}
            for token_id in (row.token, *(c[0] for c in row.candidates), *(f[0] for f in row.firsts)):
                assert told[token_id].cut_by is None
                assert told[token_id].final_probability > 0
            assert told[row.token].probability == pytest.approx(math.exp(row.logprob), rel=1e-4)
            assert sum(p.final_probability for p in told.values()) <= 1 + 1e-9


def test_bad_logits_tell_nothing() -> None:
    batch = SampledBatch([(SamplingParams(), PolicyConfig(policy="fixed"))], None)
    logits = torch.full((1, 8), math.nan)
    (row,) = unpack(batch.step(logits, None, None, StepColumns.of([StepRow(0)])), batch.candidates)
    assert probable_tokens(logits.numpy()[0], row) == ()
