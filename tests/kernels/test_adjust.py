"""Adjustments of logits: every implementation against the definition in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from entropick_kernels.adjust import (
    Entries,
    Kernels,
    Masks,
    add_to_logits,
    mask_logits,
    penalise,
    restore,
    words_of,
)
from entropick_kernels.adjust.reference import add_reference, mask_reference, penalise_reference

IMPLEMENTATIONS: tuple[Kernels, ...] = ("torch", "numba")


def random_entries(rng: np.random.Generator, rows: int, vocabulary: int, values: str) -> Entries:
    ids = [rng.permutation(vocabulary)[: rng.integers(0, vocabulary)] for _ in range(rows)]
    starts = np.concatenate(([0], np.cumsum([len(i) for i in ids])))
    count = int(starts[-1])
    numbers = rng.integers(0, 4, count) if values == "counts" else rng.uniform(-100, 100, count)
    return Entries(starts.astype(np.int64), np.concatenate(ids).astype(np.int64), numbers.astype(np.float64))


def cases() -> list[int]:
    return [1, 31, 32, 33, 97, 1000]


@pytest.mark.parametrize(
    ("kernels", "dtype"), [("torch", torch.float32), ("torch", torch.float64), ("numba", torch.float32)]
)
@pytest.mark.parametrize("vocabulary", cases())
def test_all_are_the_definition(kernels: Kernels, vocabulary: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(vocabulary)
    rows = 5
    for words in {-(-vocabulary // 32), max(0, vocabulary // 32 - 1), vocabulary // 32 + 2}:
        logits = torch.from_numpy(rng.normal(0, 8, (rows, vocabulary))).to(dtype)
        masks = Masks(np.array([3, 0]), rng.integers(-(2**31), 2**31, (2, words)).astype(np.int32))
        want = mask_reference(logits, masks)
        mask_logits(logits, masks, kernels=kernels)
        np.testing.assert_array_equal(logits.numpy(), want)
        assert masks.allowed(vocabulary).tolist() == (want[[3, 0]] > -math.inf).sum(1).tolist()
        added = random_entries(rng, rows, vocabulary, "bias")
        added.values[::7] = -math.inf
        want = add_reference(logits, added)
        add_to_logits(logits, added, kernels=kernels)
        np.testing.assert_array_equal(logits.numpy(), want.astype(logits.numpy().dtype))
        seen, measured = random_entries(rng, rows, vocabulary, "counts"), logits.clone()
        factors = rng.uniform((-2, -2, 0.01), (2, 2, 10), (rows, 3))
        want = penalise_reference(logits, seen, factors)
        before = penalise(logits, seen, factors, kernels=kernels)
        np.testing.assert_allclose(logits.numpy(), want, rtol=0 if dtype == torch.float64 else 6e-8)
        restore(logits, seen, before, kernels=kernels)
        assert torch.equal(logits, measured)


def test_words_allow_their_tokens_alone() -> None:
    assert words_of([0, 33], 40).tolist() == [1, 2]
    assert words_of([31], 32).tolist() == [-(2**31)]
    logits = torch.zeros(1, 40)
    mask_logits(logits, Masks(np.array([0]), words_of([0, 33], 40)[None]))
    assert torch.nonzero(logits[0] == 0).flatten().tolist() == [0, 33]


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_penalties_at_their_limits_stay_finite_and_free_no_banned_token(kernels: Kernels) -> None:
    logits = torch.tensor([[30.0, -30.0, -math.inf, 0.0]])
    seen = Entries(np.array([0, 4]), np.arange(4), np.full(4, 1e6))
    for factors in ([2.0, 2.0, 1e-30], [-2.0, -2.0, 1e30]):
        adjusted = logits.clone()
        penalise(adjusted, seen, np.array([factors]), kernels=kernels)
        assert adjusted[0, 2] == -math.inf
        assert adjusted[0, [0, 1, 3]].isfinite().all()


def test_a_type_that_would_round_a_bias_away_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        mask_logits(torch.zeros(1, 8, dtype=torch.bfloat16), Masks(np.array([0]), words_of([0], 8)[None]))
    with pytest.raises(ValueError, match="native loops need"):
        mask_logits(
            torch.zeros(1, 8, dtype=torch.float64),
            Masks(np.array([0]), words_of([0], 8)[None]),
            kernels="numba",
        )
