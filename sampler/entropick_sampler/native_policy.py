"""``decide`` for one row as a native loop: the same tables, the same comparisons. Needs numba.

:func:`entropick_sampler.policy.decide` says what it computes and stays the form that runs on any device; of
the five strategies' parameters only those of the one that was picked are computed here.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.loops import native

from .formulas import PARAMETERS
from .params import Strategy
from .policy import PolicyRows
from .profile import QUANTILE_LEVELS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]

_P: Final = len(PARAMETERS)
_N: Final = len(Strategy)
_CLARIFY: Final = int(Strategy.CLARIFY)
_FIRST_LEVEL: Final = QUANTILE_LEVELS[0]


class Tables(NamedTuple):
    """:class:`~.policy.PolicyRows` as arrays; bools as uint8."""

    cuts: Floats
    sides: Floats
    clarify: Floats
    clarify_cut: Floats
    unread: Flags
    coefficients: Floats
    constants: Floats
    low: Floats
    high: Floats
    rounding: Floats
    numbers: Integers
    ranked: Flags
    cooldown: Integers
    rank_low: Floats
    rank_scale: Floats
    rank_step: Floats

    @classmethod
    def of(cls, rows: PolicyRows) -> Tables:
        """Arrays that share the tensors' memory."""
        return cls(*(_array(getattr(rows, name)) for name in cls._fields))


def _array(tensor: Tensor) -> Any:
    plain = tensor.contiguous()
    return (plain.view(torch.uint8) if plain.dtype == torch.bool else plain).numpy()


@native()
def rank(value: float, low: Floats, scale: Floats, step: Floats) -> float:
    """A value's place among a signal's quantiles [Q - 1]; a NaN stays one."""
    total = 0.0
    for q in range(low.shape[0]):
        share = (value - low[q]) * scale[q]
        share = 0.0 if share < 0 else 1.0 if share > 1 else share
        total += share * step[q]
    return total + _FIRST_LEVEL


@native()
def decide_row(
    tables: Tables, row: int, values: Floats, valid: Flags, seen: Floats, parameters: Floats
) -> int:
    """The strategy of one row, and ``parameters`` (temperature, top_p, top_k, min_p) of its draw.

    ``values`` [S], 0 where ``valid`` [S] is not; ``seen`` is scratch of S.
    """
    signals = values.shape[0]
    for s in range(signals):
        if not tables.ranked[row]:
            seen[s] = values[s]
        elif valid[s]:
            seen[s] = rank(values[s], tables.rank_low[s], tables.rank_scale[s], tables.rank_step)
        else:
            seen[s] = 0.5
    clear, discriminant = True, 0.0
    for s in range(signals):
        discriminant += tables.clarify[row, s] * values[s]
        clear = clear and (valid[s] != 0 or tables.unread[row, s] != 0)
    clear = clear and discriminant > tables.clarify_cut[row]
    strategy = 0
    for candidate in range(_N):
        hit = candidate != _CLARIFY or clear
        for axis in range(2):
            hit = hit and values[axis] * tables.sides[axis, candidate] > tables.cuts[row, axis, candidate]
        if hit:
            strategy = candidate
            break
    for p in range(_P):
        cell = strategy * _P + p
        value = 0.0
        for s in range(signals):
            value += tables.coefficients[row, cell, s] * seen[s]
        value += tables.constants[row, cell]
        value = tables.low[row, cell] if value < tables.low[row, cell] else value
        value = tables.high[row, cell] if value > tables.high[row, cell] else value
        parameters[p] = (value + tables.rounding[cell]) - tables.rounding[cell]
    return strategy
