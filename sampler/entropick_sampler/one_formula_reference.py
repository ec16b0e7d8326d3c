"""The policies with one formula for one row in float64; every batched form is checked against it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from entropick_kernels.logits_shape.reference import (
    logits_spread_reference,
    prefix_depth_reference,
    temperature_reference,
)
from entropick_kernels.logits_stats.reference import logits_stats_reference

from .one_formula import FINITE, LN2, MARGIN, ONE_FORMULA, Figure, surprisal_limit
from .params import FormulaParams, PolicyName, PolicyParams


def figure(
    which: Figure,
    logits: npt.ArrayLike,
    inputs: tuple[float, float] = (0.0, 0.0),
    limits: tuple[float, float] = (0.01, 5.0),
    surprisal: float = 0.0,
    tokens: int = 0,
) -> float:
    """Computes a figure of one row of logits [V] in float64.

    ``limits``: of the temperature; ``surprisal`` (bits) and ``tokens``: of the reply so far.
    """
    measured = logits_stats_reference(logits)
    entropy = float(measured.entropy) * LN2
    match which:
        case Figure.INVERSE_ENTROPY:
            return min(1 / entropy, FINITE) if entropy > 0 else FINITE
        case Figure.LOG_RELATIVE_ENTROPY:
            largest = math.log(float(logits_spread_reference(logits).tokens))
            return math.log(entropy / largest) if entropy > 0 and largest > 0 else -FINITE
        case Figure.LOG_TEMPERATURE:
            return math.log(temperature_reference(logits, inputs[0], *limits))
        case Figure.DEVIATION:
            return float(logits_spread_reference(logits).deviation)
        case Figure.SURPRISAL_ROOM:
            return float(measured.log_z) - LN2 * float(surprisal_limit(*inputs, surprisal, tokens))
        case Figure.PREFIX_DEPTH:
            depth = prefix_depth_reference(logits, inputs[0])
            return -(depth + MARGIN * (1 + depth))


def parameter(
    policy: PolicyName,
    logits: npt.ArrayLike,
    params: PolicyParams,
    formula: FormulaParams,
    surprisal: float = 0.0,
    tokens: int = 0,
) -> float:
    """Computes the temperature or the min_p that a policy sets for one row of logits [V], in float64.

    ``params``: base values and limits; ``surprisal`` (bits) and ``tokens``: of the reply so far. The float64
    reference of the batched forms. Raises KeyError for a policy that is not in the table.
    """
    row = ONE_FORMULA[policy]
    terms = row.terms(params, formula)
    limits = params.temperature_min, params.temperature_max
    x = figure(row.figure, logits, terms.inputs, limits, surprisal, tokens)
    if row.sets == "temperature":
        value = terms.offset + terms.scale * np.exp(terms.weight * x)
        return float(np.clip(value, *limits))
    value = terms.offset + terms.scale * np.exp(min(terms.weight * x / params.temperature, 0.0))
    return max(params.min_p, float(value))
