"""Token costs in Triton: against float64, and what asking for them does not change."""

import math

import numpy as np
import pytest
import torch

from entropick_kernels.attention_stats import (
    PositionCosts,
    TokenCosts,
    decode_attention,
    measure_attention,
)
from entropick_kernels.attention_stats import reference as ref
from entropick_kernels.attention_stats._inputs import PagedQueries
from entropick_kernels.attention_stats.costs import COST_FIGURES, UNKNOWN
from entropick_kernels.attention_stats.triton_impl import measure_attention_triton

from .test_attention_stats import SMALL, Cache, queries

LENGTHS = (1, 7, 64, 150)
HEADS = 4


class Costed:
    """A cache with a surprisal beside every key, some of them unknown; what no row owns is NaN."""

    def __init__(self, device, unknown=0.2, dtype=torch.float32, lengths=LENGTHS):
        self.cache = Cache(device, lengths, 2, 16, dtype=dtype)
        self.q = queries(len(lengths), HEADS, 16, dtype)
        block = self.cache.k.shape[2]
        bits, table = torch.full((self.cache.k.shape[0], block), math.nan), self.cache.table.cpu()
        rng = torch.Generator().manual_seed(3)
        self.of_row = []
        for row, n in enumerate(lengths):
            some = torch.rand(n, generator=rng) * 12
            some[torch.rand(n, generator=rng) < unknown] = UNKNOWN
            slots = torch.arange(n)
            bits[table[row, slots // block].long(), slots % block] = some
            self.of_row.append(some)
        self.bits = bits.to(device)

    def attend(self, **options):
        figures = torch.empty(len(self.of_row), HEADS, COST_FIGURES, device=self.bits.device)
        found = self.cache.attend(self.q, costs=TokenCosts(self.bits, figures), **{**SMALL, **options})
        return *found, figures.cpu()

    def expected(self, row, window, softcap):
        keys = self.cache.keys[row].float().repeat_interleave(HEADS // 2, 1)
        scores = torch.einsum("hd,nhd->hn", self.q[row].double(), keys.double()).numpy() * 0.3
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        n = len(keys)
        valid = np.arange(n) >= (0 if window is None else n - window)
        bits = self.of_row[row].double().numpy()
        known = (ref.attention_probabilities(scores, valid) * (bits >= 0)).sum(-1)
        return np.stack(
            [
                ref.head_token_cost(scores, bits, valid),
                ref.head_token_cost_relative(scores, bits, valid),
                ref.head_sink_mass(scores, valid),
                known,
            ],
            -1,
        )


@pytest.mark.parametrize(
    ("window", "softcap", "unknown"),
    [(None, None, 0.0), (None, 1.5, 0.2), (5, None, 0.6), (100, 1.5, 0.2), (None, None, 1.0)],
)
def test_the_costs_are_those_of_the_reference(device, window, softcap, unknown):
    case = Costed(device, unknown)
    figures = case.attend(window=window, softcap=softcap)[-1]
    for row in range(len(LENGTHS)):
        wanted = case.expected(row, window, softcap)
        np.testing.assert_allclose(figures[row].double().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("want", ["all", "none"])
def test_asking_changes_no_bit_of_the_rest(device, want):
    case = Costed(device)
    out, stats, figures = case.attend(want=want)
    plain, plain_stats = case.cache.attend(case.q, want=want, **SMALL)
    assert torch.equal(out, plain)
    for one, other in zip(stats or (), plain_stats or (), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(figures, case.attend()[-1], rtol=0, atol=0, equal_nan=True)


def test_a_row_has_the_same_bits_alone(device):
    case, alone = Costed(device), Costed(device)
    together = case.attend()[-1]
    for row in range(len(LENGTHS)):
        alone.cache.table = case.cache.table[row : row + 1]
        alone.cache.lengths = case.cache.lengths[row : row + 1]
        alone.q, alone.of_row = case.q[row : row + 1], case.of_row[row : row + 1]
        torch.testing.assert_close(alone.attend()[-1][0], together[row], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cache_of_16_bits_has_costs_of_its_own_values(device, dtype):
    case = Costed(device, dtype=dtype)
    figures = case.attend()[-1]
    for row in range(len(LENGTHS)):
        wanted = case.expected(row, None, None)
        np.testing.assert_allclose(figures[row].double().numpy(), wanted, rtol=2e-3, atol=1e-4)


def test_the_public_function_measures_them_too(device):
    case = Costed(device)
    figures = torch.empty(len(LENGTHS), HEADS, COST_FIGURES, device=device)
    cache = case.cache
    decode_attention(
        case.q.to(device), cache.k, cache.v, cache.table, cache.lengths,
        scale=0.3, costs=TokenCosts(case.bits, figures), kernels="triton",
    )  # fmt: skip
    for row in range(len(LENGTHS)):
        wanted = case.expected(row, None, None)
        np.testing.assert_allclose(figures[row].cpu().double().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (100, 1.5)])
@pytest.mark.parametrize("columns", [150, 90, 200])
def test_surprisals_by_position_give_the_same_bits(device, window, softcap, columns):
    """For a caller that attends itself; the tokens behind the last column are not known."""
    case = Costed(device)
    block = case.cache.k.shape[2]
    lines = torch.full((len(LENGTHS), columns), UNKNOWN)
    for row, bits in enumerate(case.of_row):
        lines[row, : len(bits)] = bits[:columns]
        slots = torch.arange(columns, max(columns, len(bits)))
        case.bits[case.cache.table[row, (slots // block).to(device)].long(), slots.to(device) % block] = (
            UNKNOWN
        )
    wanted = case.attend(window=window, softcap=softcap)[-1]
    figures = torch.empty(len(LENGTHS), HEADS, COST_FIGURES, device=device)
    inputs = PagedQueries(
        case.q.to(device), case.cache.k, None, case.cache.table, case.cache.lengths, 0.3, window, softcap
    )
    costs = PositionCosts(lines.to(device), figures)
    stats = measure_attention_triton(inputs, costs=costs, **SMALL)
    torch.testing.assert_close(figures.cpu(), wanted, rtol=0, atol=0, equal_nan=True)
    for one, other in zip(stats, measure_attention_triton(inputs, **SMALL), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_padded_row_has_no_costs(device):
    case = Costed(device)
    lengths = case.cache.lengths.clone()
    lengths[1] = 0
    figures = torch.zeros(len(LENGTHS), HEADS, COST_FIGURES, device=device)
    lines = torch.ones(len(LENGTHS), max(LENGTHS), device=device)
    measure_attention(
        case.q.to(device), case.cache.k, case.cache.table, lengths,
        scale=0.3, costs=PositionCosts(lines, figures), kernels="triton",
    )  # fmt: skip
    assert figures[1, :, :3].isnan().all()
    assert not figures[1, :, 3].any()
    torch.testing.assert_close(figures[2:, :, 0].cpu(), torch.ones(2, HEADS), rtol=1e-5, atol=1e-5)
