"""Statistics from vLLM's cache layout against the kernel that the embedded engine uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropick_kernels.attention_stats import TokenCosts, decode_attention, layer_signals
from entropick_kernels.attention_stats.costs import COST_FIGURES
from entropick_server.engine.vllm.attention import capture
from entropick_server.engine.vllm.attention.buffers import layer_number
from entropick_server.engine.vllm.attention.capture import Attention, Captured, TensorParallelGroup, measure

# a row of one key has NaN for its attention to the previous key
close = partial(torch.testing.assert_close, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    group=st.sampled_from([1, 2, 4]),
    window=st.none() | st.integers(1, 40),
    softcap=st.sampled_from([0.0, 3.0]),
    layers=st.integers(1, 3),
    native=st.booleans(),
    unknown=st.sampled_from([-3, 0, 0, 1]),
    seed=st.integers(0, 1000),
)
def test_as_the_kernel_measures(
    lengths: list[int],
    group: int,
    window: int | None,
    softcap: float,
    layers: int,
    native: bool,
    unknown: int,
    seed: int,
) -> None:
    """Any number of rows and layers, windows and caps; blocks in any order, the last one partly stale."""
    torch.manual_seed(seed)
    block, width, kv_heads, rows = 16, 8, 2, len(lengths)
    columns = -(-max(lengths) // block)
    table = torch.randperm(rows * columns).view(rows, columns)
    ends = torch.tensor(lengths)
    # the last columns are left out: what is not there is not known
    bits = torch.randint(-1, 12, (rows, columns * block)).float()
    surprisals = bits[:, : max(lengths) - unknown].contiguous()
    bits[:, surprisals.shape[1] :] = -1.0
    beside_keys = torch.empty(rows * columns, block)
    beside_keys[table.flatten()] = bits.view(-1, block)
    captured, wanted, costs = [], [], []
    for _ in range(layers):
        keys = torch.randn(rows * columns, kv_heads, block, width) * 2
        q = torch.randn(rows, kv_heads * group, width)
        # behind its keys a block holds values
        mixed = torch.cat((keys, torch.randn_like(keys)), 3).transpose(2, 3)
        captured.append(
            Captured(
                q,
                mixed.contiguous() if native else mixed,
                table,
                ends,
                max(lengths),
                width**-0.5,
                window,
                softcap,
            )
        )
        costs.append(torch.empty(rows, kv_heads * group, COST_FIGURES))
        _, stats = decode_attention(
            q,
            keys,
            keys,
            table,
            ends,
            scale=width**-0.5,
            window=window,
            softcap=softcap or None,
            costs=TokenCosts(beside_keys, costs[-1]),
        )
        wanted.append(layer_signals(stats))
    got = measure(captured, rows, surprisals=surprisals)
    assert got.costs is not None
    close(got.costs, torch.stack(costs), atol=1e-4, rtol=1e-4)
    assert measure(captured, rows).costs is None
    assert got.by_layer.shape == (layers, rows, 7)
    close(got.by_layer, torch.stack(wanted), atol=2e-5, rtol=1e-4)
    close(got.signals, torch.stack(wanted).mean(0), atol=2e-5, rtol=1e-4)


SURPRISALS = torch.rand(2, 50, generator=torch.Generator().manual_seed(3)) * 9


class Share:
    """Workers of one process: what each adds and gathers is noted first, and given to all of them then."""

    def __init__(self, parts: list[list[Captured]], rows: int) -> None:
        self._parts, self._rows = parts, rows
        sums: list[list[Tensor]] = []
        for part in parts:
            sums.append([])
            self._one(part, lambda t: sums[-1].append(t.clone()) or t, self._alone)  # type: ignore[func-returns-value]
        self._totals = [torch.stack(of_layer).sum(0) for of_layer in zip(*sums, strict=True)]
        self._figures: list[Tensor] = []
        for part in parts:
            self._one(part, self._total(), lambda t: self._figures.append(t.clone()) or self._alone(t))  # type: ignore[func-returns-value]

    def _alone(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor] * len(self._parts), -1)

    def _total(self) -> Callable[[Tensor], Tensor]:
        given = iter(self._totals)
        return lambda _: next(given)

    def _one(self, part: list[Captured], add: Any, gather: Any) -> Attention:
        group = TensorParallelGroup(len(self._parts), add, gather)
        return measure(part, self._rows, group, surprisals=SURPRISALS)

    def measured(self) -> list[Attention]:
        """What every worker measures."""
        return [
            self._one(part, self._total(), lambda _: torch.cat(self._figures, -1)) for part in self._parts
        ]


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("count", [2, 4])
def test_workers_that_share_the_heads(transposed: bool, count: int) -> None:
    """Each measures its own heads; every one of them then has the figures of all, in the heads' order."""
    torch.manual_seed(1)
    layers = []
    for window in (None, 7):
        keys = torch.randn(8, 4, 16, 8)
        layers.append(
            Captured(
                torch.randn(2, 8, 8) * 2, keys.transpose(2, 3).contiguous() if transposed else keys,
                torch.arange(8).view(2, 4), torch.tensor([50, 9]), 50, 8**-0.5, window, 2.0, transposed,
            )
        )  # fmt: skip
    whole = measure(layers, 2, surprisals=SURPRISALS)
    parts = [
        [
            layer._replace(
                queries=layer.queries.chunk(count, 1)[i].contiguous(),
                keys=layer.keys.chunk(count, 1)[i].contiguous(),
            )
            for layer in layers
        ]
        for i in range(count)
    ]
    for got in Share(parts, 2).measured():
        torch.testing.assert_close(got.by_layer, whole.by_layer, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.heads.entropy, whole.heads.entropy, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.heads.previous, whole.heads.previous, atol=1e-6, rtol=1e-4)
        close(got.costs, whole.costs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_rows_in_parts(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """Where the weights of all rows are too many at once, the figures are the same."""
    torch.manual_seed(2)
    layers = [
        Captured(
            torch.randn(5, 4, 8) * 2, torch.randn(12, 2, 16, 8), torch.randint(12, (5, 4)),
            torch.tensor([50, 9, 1, 33, 64]), 64, 8**-0.5, window, 2.0, transposed=False,
        )
        for window in (None, 40)
    ]  # fmt: skip
    bits = torch.rand(5, 64) * 9
    whole = measure(layers, 5, surprisals=bits)
    monkeypatch.setattr(capture, "SCRATCH", together * 4 * 64)
    assert next(capture._parts(layers[0], 5)) == slice(0, together)
    got = measure(layers, 5, surprisals=bits)
    close(got.costs, whole.costs, atol=1e-5, rtol=1e-5)
    close(got.by_layer, whole.by_layer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got.heads.deviation, whole.heads.deviation, atol=1e-6, rtol=1e-5)
    assert got.heads.keys.equal(whole.heads.keys)


def test_layers_of_unlike_windows() -> None:
    """Each layer with its own: a batch of them is not one operation."""
    torch.manual_seed(0)
    base = Captured(
        torch.randn(2, 4, 8), torch.randn(8, 2, 8, 16), torch.arange(8).view(2, 4), torch.tensor([50, 9]), 50,
        8**-0.5, None, 0.0,
    )  # fmt: skip
    narrow = base._replace(window=5)
    bits = torch.rand(2, 50) * 9
    together = measure([base, narrow], 2, surprisals=bits)
    assert together.costs is not None
    for at, layer in enumerate((base, narrow)):
        alone = measure([layer], 2, surprisals=bits)
        torch.testing.assert_close(together.by_layer[at], alone.by_layer[0])
        assert alone.costs is not None
        close(together.costs[at], alone.costs[0])
    assert not together.by_layer[0].equal(together.by_layer[1])


def test_fewer_rows_than_were_captured() -> None:
    captured = Captured(
        torch.randn(3, 4, 8), torch.randn(8, 2, 8, 16), torch.arange(6).view(3, 2), torch.tensor([20, 9, 3]),
        20, 8**-0.5, None, 0.0,
    )  # fmt: skip
    torch.testing.assert_close(measure([captured], 2).by_layer, measure([captured], 3).by_layer[:, :2])


@pytest.mark.parametrize(
    ("name", "number"), [("model.layers.3.self_attn.attn", 3), ("transformer.h.11.attn", 11), ("attn", -1)]
)
def test_layer_numbers(name: str, number: int) -> None:
    assert layer_number(name) == number
