"""The seven signals of a layer: the native form against the torch form and the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from entropick_kernels.attention_stats import head_stats, layer_signals, reference
from entropick_kernels.attention_stats.numba_signals import layer_signals_into, mean_signals_into
from entropick_kernels.attention_stats.transposed import TransposedLayer, measure_transposed

NAMES = (
    "attention_entropy",
    "attention_entropy_normalized",
    "attention_varentropy",
    "agreement",
    "agreement_seed",
    "interaction_strength",
    "attention_to_previous",
)
PRECISIONS = pytest.mark.parametrize("zero", [np.float32(0), 0.0], ids=["float32", "float64"])


@PRECISIONS
@pytest.mark.parametrize("heads", [1, 3, 9, 32])
def test_the_native_signals_are_the_torch_ones_and_the_references(heads: int, zero: float) -> None:
    scores = torch.randn(heads, 70, generator=torch.Generator().manual_seed(heads)) * 2
    stats = head_stats(scores)
    figures = torch.stack(stats[:-1], -1).numpy()
    found = np.empty(7, dtype=np.float32)
    layer_signals_into(figures, 70, zero, found)
    np.testing.assert_allclose(found, layer_signals(stats).numpy(), rtol=2e-6, atol=2e-6)
    wanted = [getattr(reference, name)(scores) for name in NAMES]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@PRECISIONS
def test_the_mean_over_layers(zero: float) -> None:
    by_layer = np.random.default_rng(1).random((3, 5, 7), dtype=np.float32)
    found = np.empty((5, 7), dtype=np.float32)
    mean_signals_into(by_layer, zero, found)
    np.testing.assert_allclose(found, by_layer.mean(0), rtol=1e-6)


def transposed_layers(
    lengths: list[int], seed: int
) -> tuple[list[TransposedLayer], torch.Tensor, torch.Tensor]:
    """Two layers whose blocks hold keys, then values, a dimension a line; a block table; lengths."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = len(lengths), -(-max(lengths) // 16)
    table = torch.randperm(rows * columns, generator=g).view(rows, columns)
    layers = [
        TransposedLayer(
            torch.randn(rows, 6, 10, generator=g) * 2,
            torch.randn(rows * columns, 2, 20, 16, generator=g),
            0.4,
            window,
            softcap,
        )
        for window, softcap in ((None, 0.0), (21, 5.0))
    ]
    return layers, table, torch.tensor(lengths)


def test_layers_over_transposed_blocks_have_the_references_signals() -> None:
    layers, table, lengths = transposed_layers([1, 40, 16, 77], 3)
    found = measure_transposed(layers, table, lengths)
    assert found.heads.keys.tolist() == [[1, 40, 16, 77], [1, 21, 16, 21]]
    for at, layer in enumerate(layers):
        keys = layer.blocks[:, :, :10].transpose(2, 3)
        for row, length in enumerate(lengths.tolist()):
            scores = reference.paged_scores(
                layer.queries[row], keys, table[row], length,
                scale=layer.scale, window=layer.window, softcap=layer.softcap or None,
            )  # fmt: skip
            wanted = [getattr(reference, name)(scores) for name in NAMES]
            np.testing.assert_allclose(found.by_layer[at, row], wanted, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found.signals, found.by_layer.mean(0), equal_nan=True)
    assert found.heads.previous[:, 0].isnan().all()
    assert not found.heads.previous[:, 1:].isnan().any()


def test_a_row_of_transposed_blocks_does_not_depend_on_its_neighbours() -> None:
    layers, table, lengths = transposed_layers([9, 40, 77], 4)
    together = measure_transposed(layers, table, lengths)
    for row in range(3):
        alone = [layer._replace(queries=layer.queries[row : row + 1]) for layer in layers]
        found = measure_transposed(alone, table[row : row + 1], lengths[row : row + 1])
        assert found.by_layer[:, 0].equal(together.by_layer[:, row])
        assert found.signals[0].equal(together.signals[row])


def test_blocks_and_lengths_out_of_range_are_refused() -> None:
    layers, table, lengths = transposed_layers([9, 40], 5)
    for bad_table, bad_lengths in (
        (table + 1000, lengths),
        (table - 1000, lengths),
        (table, lengths + 1000),
        (table, lengths * 0),
    ):
        with pytest.raises(IndexError):
            measure_transposed(layers, bad_table, bad_lengths)
