"""Statistics from vLLM's cache layout against the kernel that the embedded engine uses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entropick_kernels.attention_stats import decode_attention, layer_signals
from entropick_server.engine.vllm.attention.capture import Captured, measure
from entropick_server.engine.vllm.attention.cpu import layer_number


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    group=st.sampled_from([1, 2, 4]),
    window=st.none() | st.integers(1, 40),
    softcap=st.sampled_from([0.0, 3.0]),
    layers=st.integers(1, 3),
    native=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_as_the_kernel_measures(
    lengths: list[int], group: int, window: int | None, softcap: float, layers: int, native: bool, seed: int
) -> None:
    """Any number of rows and layers, windows and caps; pages in any order, the last one partly stale."""
    torch.manual_seed(seed)
    page, width, kv_heads, rows = 16, 8, 2, len(lengths)
    columns = -(-max(lengths) // page)
    table = torch.randperm(rows * columns).view(rows, columns)
    ends = torch.tensor(lengths)
    captured, wanted = [], []
    for _ in range(layers):
        keys = torch.randn(rows * columns, kv_heads, page, width) * 2
        q = torch.randn(rows, kv_heads * group, width)
        # behind its keys a page holds values
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
        _, stats = decode_attention(
            q, keys, keys, table, ends, scale=width**-0.5, window=window, softcap=softcap or None
        )
        wanted.append(layer_signals(stats))
    got = measure(captured, rows)
    assert got.by_layer.shape == (layers, rows, 6)
    torch.testing.assert_close(got.by_layer, torch.stack(wanted), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(got.signals, torch.stack(wanted).mean(0), atol=2e-5, rtol=1e-4)


def test_layers_of_unlike_windows() -> None:
    """Each layer with its own: a batch of them is not one operation."""
    torch.manual_seed(0)
    base = Captured(
        torch.randn(2, 4, 8), torch.randn(8, 2, 8, 16), torch.arange(8).view(2, 4), torch.tensor([50, 9]), 50,
        8**-0.5, None, 0.0,
    )  # fmt: skip
    narrow = base._replace(window=5)
    together = measure([base, narrow], 2)
    for at, layer in enumerate((base, narrow)):
        torch.testing.assert_close(together.by_layer[at], measure([layer], 2).by_layer[0])
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
