"""Token costs: known answers, every implementation against float64, and what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entropick_kernels import _threads
from entropick_kernels.attention_stats import (
    PositionCosts,
    TokenCosts,
    decode_attention,
    measure_attention,
    numba_impl,
)
from entropick_kernels.attention_stats import reference as ref
from entropick_kernels.attention_stats.costs import COST_FIGURES, UNKNOWN

Paged = Callable[..., Any]
LENGTHS = (1, 7, 16, 37, 50)
H, D = 4, 8


def log_weights(p: list[float]) -> np.ndarray[Any, Any]:
    with np.errstate(divide="ignore"):
        return np.log(np.array(p))[None]


def test_known_answers() -> None:
    scores, bits = log_weights([0.8, 0.05, 0.05, 0.05, 0.05]), [0.0, 4.0, 6.0, 2.0, 8.0]
    cost, sink = ref.head_token_cost(scores, bits)[0], ref.head_sink_mass(scores)[0]
    assert cost == pytest.approx(1.0, abs=1e-12)
    assert sink == pytest.approx(0.8, abs=1e-12)
    assert cost / (1 - sink) == pytest.approx(5.0, abs=1e-12)
    uniform = np.zeros((3, 5))
    assert ref.head_token_cost_relative(uniform, bits) == pytest.approx([1.0] * 3, abs=1e-12)


def test_an_unknown_surprisal_counts_neither_as_0_nor_as_anything() -> None:
    scores = log_weights([0.4, 0.2, 0.2, 0.2])
    for unknown in (UNKNOWN, math.nan, -math.inf):
        cost = ref.head_token_cost(scores, [1.0, unknown, 6.0, 5.0])[0]
        assert cost == pytest.approx((0.4 + 1.2 + 1.0) / 0.8, abs=1e-12)
    # less than half of the attention is known
    assert math.isnan(ref.head_token_cost(scores, [UNKNOWN, 1.0, 2.0, UNKNOWN])[0])
    assert math.isnan(ref.head_token_cost_relative(scores, [0.0] * 4)[0])
    masked = [False, True, True, True]
    assert math.isnan(ref.head_sink_mass(scores, masked)[0])
    assert ref.head_token_cost(scores, [9.0, 3.0, 6.0, 0.0], masked)[0] == pytest.approx(3.0, abs=1e-12)


class Case:
    """Rows over scattered blocks with a surprisal beside every key; some unknown, stale places not finite."""

    def __init__(self, paged: Paged, unknown: float = 0.2, width: int = D) -> None:
        rng = torch.Generator().manual_seed(4)
        self.keys = paged(LENGTHS, 2, width)
        self.blocks = self.keys.blocks
        self.values = torch.where(
            self.blocks.isnan(), math.nan, torch.randn(self.blocks.shape, generator=rng)
        )
        self.q = torch.randn(len(LENGTHS), H, width, generator=rng)
        self.bits = torch.full((self.blocks.shape[0], self.blocks.shape[2]), math.nan)
        self.of_row = []
        for row, n in enumerate(LENGTHS):
            bits = torch.rand(n, generator=rng) * 12
            bits[torch.rand(n, generator=rng) < unknown] = UNKNOWN
            at = torch.arange(n)
            ids = self.keys.table[row, at // self.blocks.shape[2]].long()
            self.bits[ids, at % self.blocks.shape[2]] = bits
            self.of_row.append(bits)

    def measure(self, rows: list[int] | None = None, bits: Tensor | None = None, **more: Any) -> Any:
        """Output, statistics and cost figures of some rows."""
        some = list(range(len(LENGTHS))) if rows is None else rows
        figures = torch.empty(len(some), H, COST_FIGURES)
        costs = TokenCosts(self.bits if bits is None else bits, figures)
        out, stats = decode_attention(
            self.q[some], self.blocks, self.values, self.keys.table[some], self.keys.lengths[some],
            scale=0.5, costs=costs, **more,
        )  # fmt: skip
        return out, stats, figures

    def expected(self, row: int, window: int | None = None, softcap: float | None = None) -> list[Any]:
        n = LENGTHS[row]
        scores = ref.paged_scores(
            self.q[row], self.blocks, self.keys.table[row], n, scale=0.5, softcap=softcap
        )
        valid = np.arange(n) >= (0 if window is None else n - window)
        bits = self.of_row[row].double().numpy()
        p = ref.attention_probabilities(scores, valid)
        return [
            ref.head_token_cost(scores, bits, valid),
            ref.head_token_cost_relative(scores, bits, valid),
            ref.head_sink_mass(scores, valid),
            (p * (bits >= 0)).sum(-1),
        ]


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("window", [None, 5, 16, 40])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("unknown", [0.0, 0.2, 0.6])
def test_every_implementation_equals_the_reference(
    kernels: Any, window: int | None, softcap: float | None, unknown: float, paged_keys: Paged
) -> None:
    case = Case(paged_keys, unknown)
    _, _, figures = case.measure(window=window, softcap=softcap, kernels=kernels)
    for row in range(len(LENGTHS)):
        wanted = np.stack(case.expected(row, window, softcap), -1)
        np.testing.assert_allclose(figures[row].double().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_asking_changes_no_other_figure(kernels: Any, paged_keys: Paged) -> None:
    case = Case(paged_keys)
    out, stats, _ = case.measure(kernels=kernels)
    plain, plain_stats = decode_attention(
        case.q, case.blocks, case.values, case.keys.table, case.keys.lengths, scale=0.5, kernels=kernels
    )
    assert torch.equal(out, plain)
    for one, other in zip(stats, plain_stats, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_a_row_does_not_depend_on_the_others(kernels: Any, paged_keys: Paged) -> None:
    case = Case(paged_keys)
    _, _, together = case.measure(kernels=kernels)
    exact: dict[str, Any] = {"rtol": 0, "atol": 0} if kernels == "numba" else {"rtol": 1e-5, "atol": 1e-6}
    for row in range(len(LENGTHS)):
        _, _, alone = case.measure([row], kernels=kernels)
        torch.testing.assert_close(alone[0], together[row], **exact, equal_nan=True)


@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_a_bit_more_for_every_key_costs_a_bit_more(kernels: Any, paged_keys: Paged) -> None:
    case = Case(paged_keys, 0.0)
    _, _, figures = case.measure(kernels=kernels)
    _, _, more = case.measure(bits=case.bits + 1.0, kernels=kernels)
    torch.testing.assert_close(more[..., 0], figures[..., 0] + 1.0, rtol=1e-5, atol=1e-5)
    _, _, constant = case.measure(bits=torch.full_like(case.bits, 3.0), kernels=kernels)
    torch.testing.assert_close(constant[..., :2], torch.tensor([3.0, 1.0]).expand(len(LENGTHS), H, 2))


def test_threads_and_parts_of_a_batch_change_no_bit(
    paged_keys: Paged, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(paged_keys)
    _, _, wanted = case.measure(kernels="numba", window=20)
    monkeypatch.setattr(numba_impl, "_SCRATCH_FLOATS", 2 * H * 20)
    _, _, parts = case.measure(kernels="numba", window=20)
    torch.testing.assert_close(parts, wanted, rtol=0, atol=0, equal_nan=True)
    if _threads.torch_openmp() is None:
        pytest.skip("torch's threads cannot be used here")
    monkeypatch.setattr(numba_impl, "threads_for", lambda work: 2)
    _, _, threads = case.measure(kernels="numba", window=20)
    torch.testing.assert_close(threads, wanted, rtol=0, atol=0, equal_nan=True)


def by_position(case: Case, columns: int = max(LENGTHS)) -> Tensor:
    """The same surprisals row by row, as many columns as there are."""
    lines = torch.full((len(LENGTHS), columns), UNKNOWN)
    for line, bits in zip(lines, case.of_row, strict=True):
        line[: len(bits)] = bits[:columns]
    return lines


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("columns", [max(LENGTHS), 30, 70])
def test_surprisals_by_position_give_the_same(
    kernels: Any, window: int | None, columns: int, paged_keys: Paged
) -> None:
    """For a caller that attends itself; the tokens behind the last column are not known."""
    case = Case(paged_keys)
    for row, bits in enumerate(case.of_row):
        at = torch.arange(columns, max(columns, len(bits)))
        ids = case.keys.table[row, at // case.blocks.shape[2]].long()
        case.bits[ids, at % case.blocks.shape[2]] = UNKNOWN
    _, stats, wanted = case.measure(window=window, softcap=2.0, kernels=kernels)
    figures = torch.empty(len(LENGTHS), H, COST_FIGURES)
    measured = measure_attention(
        case.q,
        case.blocks,
        case.keys.table,
        case.keys.lengths,
        scale=0.5,
        window=window,
        softcap=2.0,
        costs=PositionCosts(by_position(case, columns), figures),
        kernels=kernels,
    )
    torch.testing.assert_close(figures, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    for one, other in zip(measured, stats, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_a_padded_row_has_no_costs(kernels: Any, paged_keys: Paged) -> None:
    case = Case(paged_keys, 0.0)
    lengths = case.keys.lengths.clone()
    lengths[1] = 0
    figures = torch.zeros(len(LENGTHS), H, COST_FIGURES)
    costs = PositionCosts(by_position(case), figures)
    measure_attention(case.q, case.blocks, case.keys.table, lengths, scale=0.5, costs=costs, kernels=kernels)
    assert figures[1, :, :3].isnan().all()
    assert not figures[1, :, 3].any()
    assert not figures[4, :, 0].isnan().any()


def test_what_does_not_fit_is_refused(paged_keys: Paged) -> None:
    case = Case(paged_keys)
    with pytest.raises(ValueError, match=r"costs\.surprisals"):
        case.measure(bits=case.bits[:1])
    with pytest.raises(ValueError, match=r"costs\.surprisals"):
        case.measure(bits=case.bits.double())
    with pytest.raises(ValueError, match=r"costs\.figures"):
        TokenCosts(case.bits, torch.empty(1, H, 2)).check(case.q, case.blocks)
    for bits, figures, name in (
        (case.bits[:1], (len(LENGTHS), H, 4), "surprisals"),
        (torch.zeros(len(LENGTHS)), (len(LENGTHS), H, 4), "surprisals"),
        (torch.zeros(len(LENGTHS), 9).double(), (len(LENGTHS), H, 4), "surprisals"),
        (torch.zeros(9, len(LENGTHS)).T, (len(LENGTHS), H, 4), "surprisals"),
        (torch.zeros(len(LENGTHS), 9), (len(LENGTHS), H, 2), "figures"),
    ):
        with pytest.raises(ValueError, match=rf"costs\.{name}"):
            PositionCosts(bits, torch.empty(figures)).check(case.q)
