"""Expansion and pruning between the layers of a token."""

from __future__ import annotations

import math

from entropick_sampler.layer_entropy import expansion_count


def test_rises_and_falls_beyond_the_tolerance() -> None:
    assert expansion_count([8.0, 9.0, 2.0, 2.5]) == (2, 1)
    nat = 1.0 / math.log(2.0)
    assert expansion_count([1.0, 1.0 + 0.9e-6 * nat, 1.0 + 2.0e-6 * nat]) == (1, 0)
    assert expansion_count([1.0, 1.0 - 0.9e-6 * nat, 1.0 - 2.0e-6 * nat]) == (0, 1)
    assert expansion_count([3.0]) == (0, 0)
    assert expansion_count([]) == (0, 0)
