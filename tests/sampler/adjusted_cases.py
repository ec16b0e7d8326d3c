"""Random requests whose logits are adjusted, and the step that each must get, by the float64 references."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from entropick_kernels.adjust import words_of
from entropick_kernels.adjust.reference import add_reference, mask_reference, penalise_reference
from entropick_kernels.logits_stats.reference import logits_stats_reference, surprisal
from entropick_kernels.sample.reference import draw_reference, philox_uniform_reference
from entropick_sampler.adjustments import Adjustments, Entries, Masks
from entropick_sampler.packed import TokenRow
from entropick_sampler.params import PolicyConfig, SamplingParams

POLICIES = (PolicyConfig("fixed"), PolicyConfig(preset="seed"), PolicyConfig("fixed"), PolicyConfig("edt"))


class Case(NamedTuple):
    """A batch: its logits, its rows, their positions and adjustments."""

    logits: Tensor
    rows: list[tuple[SamplingParams, PolicyConfig]]
    positions: list[int]
    adjustments: Adjustments


def random_batch(number: int, rows: int, vocabulary: int) -> Case:
    """A batch in which every adjustment occurs, at its limits too, and some rows have none."""
    rng = np.random.default_rng(number)
    logits = rng.normal(0, rng.uniform(0.5, 6, (rows, 1)), (rows, vocabulary)).astype(np.float32)
    requests, words, masked = [], [], []
    ids: dict[str, list[np.ndarray]] = {"added": [], "seen": []}
    values: dict[str, list[np.ndarray]] = {"added": [], "seen": []}
    factors = np.tile([0.0, 0.0, 1.0], (rows, 1))
    for row in range(rows):
        temperature = float(rng.choice([0.0, rng.uniform(0.1, 2)], p=[0.2, 0.8]))
        sampling = SamplingParams(
            temperature if rng.random() < 0.7 else None,
            float(rng.uniform(0.3, 1)) if rng.random() < 0.5 else None,
            int(rng.integers(1, 60)) if rng.random() < 0.5 else None,
            float(rng.uniform(0, 0.2)) if rng.random() < 0.3 else None,
            seed=int(rng.integers(-(2**62), 2**62)),
        )
        requests.append((sampling, POLICIES[int(rng.integers(len(POLICIES)))]))
        if rng.random() < 0.5:
            masked.append(row)
            count = int(rng.choice([1, 2, vocabulary // 2, vocabulary]))
            words.append(words_of(rng.permutation(vocabulary)[:count], vocabulary))
        biased = rng.permutation(vocabulary)[: int(rng.choice([0, 0, 3, 40]))]
        ids["added"].append(biased.astype(np.int64))
        values["added"].append(
            np.where(
                rng.random(len(biased)) < 0.3, rng.choice([-100.0, 100.0]), rng.uniform(-9, 9, len(biased))
            )
        )
        if row not in masked and rng.random() < 0.3 and len(biased):
            values["added"][-1][0] = -math.inf
        seen = rng.permutation(vocabulary)[: int(rng.choice([0, 5, vocabulary]))]
        ids["seen"].append(seen.astype(np.int64))
        values["seen"].append(rng.integers(0, 5, len(seen)).astype(np.float64))
        factors[row] = (
            rng.choice([0, -2, 2, rng.uniform(-2, 2)]),
            rng.choice([0, -2, 2, rng.uniform(-2, 2)]),
            rng.choice([1, 0.01, 100, rng.uniform(0.5, 2)]),
        )
    starts = {name: np.concatenate(([0], np.cumsum([len(i) for i in of]))) for name, of in ids.items()}
    added, seen_entries = (
        Entries(starts[name].astype(np.int64), np.concatenate(ids[name]), np.concatenate(values[name]))
        for name in ("added", "seen")
    )
    masks = Masks(np.array(masked, np.int64), np.array(words, np.int32)) if masked else None
    return Case(
        torch.from_numpy(logits),
        requests,
        rng.integers(0, 1000, rows).tolist(),
        Adjustments(masks, added, seen_entries, factors),
    )


def assert_as_the_references(case: Case, got: list[TokenRow], within: float = 1e-5) -> None:
    """Each row has the references' signals, log probabilities and draws, at the parameters it decided."""
    masks, added, seen, factors = case.adjustments
    measured = case.logits if masks is None else mask_reference(case.logits, masks)
    measured = measured if added is None else add_reference(measured, added)
    stats = logits_stats_reference(measured)
    drawn_from = measured
    if seen is not None:
        assert factors is not None
        drawn_from = penalise_reference(measured, seen, factors)
    choices = case.adjustments.only_choices(case.logits.shape[1])
    for i, row in enumerate(got):
        assert row.flags == stats.flags[i] == 0
        np.testing.assert_allclose(row.signals[0], stats.entropy[i], rtol=within, atol=within)
        np.testing.assert_allclose(row.signals[1], stats.varentropy[i], rtol=10 * within, atol=10 * within)
        draws = max(1, row.n_candidates)
        uniforms = philox_uniform_reference(
            case.rows[i][0].seed, case.positions[i], np.arange(draws), np.zeros(draws, np.int64)
        )
        tokens = draw_reference(
            drawn_from[i : i + 1], row.temperature, row.top_k, row.top_p, row.min_p, uniforms[None]
        )[0].tolist()
        assert [c[0] for c in row.candidates] == tokens
        assert row.token == max(tokens, key=lambda token: drawn_from[i, token])
        bits = surprisal(measured[i], row.token)
        np.testing.assert_allclose(-row.logprob / math.log(2), bits, rtol=within, atol=within)
        if i in choices:
            assert row.signals[:3] == (0.0, 0.0, 0.0)
            assert row.logprob == 0.0
