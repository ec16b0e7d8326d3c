"""The policies with one formula as native loops: the parameter of the draw that a row's formula sets."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from entropick_kernels.loops import native, row_log_temperature, row_prefix_depth, row_spread

from ..one_formula import FINITE, LN2, MARGIN, Figure

Float32 = npt.NDArray[np.float32]
Record = Any
"""An element of an array of records, whose fields are read by name."""

_INVERSE_ENTROPY: Final = int(Figure.INVERSE_ENTROPY)
_LOG_RELATIVE_ENTROPY: Final = int(Figure.LOG_RELATIVE_ENTROPY)
_LOG_TEMPERATURE: Final = int(Figure.LOG_TEMPERATURE)
_DEVIATION: Final = int(Figure.DEVIATION)
_SURPRISAL_ROOM: Final = int(Figure.SURPRISAL_ROOM)


@native()
def figure_of(x: Float32, row: Record, columns: Record, figures: Float32, weights: Float32) -> Any:
    """Returns the figure that a row's formula reads.

    ``figures``: of the row's logits x; ``weights``: scratch.
    """
    figure, inputs, temperatures = row.figure, row.inputs, row.temperatures
    entropy, top = max(np.float64(figures[0]), 0.0) * LN2, figures[2]
    if figure == _INVERSE_ENTROPY:
        return 1.0 / entropy
    if figure == _LOG_RELATIVE_ENTROPY:
        count, _ = row_spread(x, top)
        return math.log(entropy) - math.log(max(math.log(count), 1e-300))
    if figure == _LOG_TEMPERATURE:
        return row_log_temperature(x, top, inputs[0], math.log(temperatures[0]), math.log(temperatures[1]))
    if figure == _DEVIATION:
        _, deviation = row_spread(x, top)
        return deviation
    if figure == _SURPRISAL_ROOM:
        tau, eta = inputs[0], inputs[1]
        limit = 2 * tau - eta * (columns.surprisal - columns.tokens * tau)
        return np.float64(figures[3]) - limit * LN2
    depth = row_prefix_depth(x, top, inputs[0], weights)
    return -(depth + MARGIN * (1 + depth))


@native()
def adjusted(
    x: Float32,
    row: Record,
    columns: Record,
    temperature: float,
    min_p: float,
    figures: Float32,
    weights: Float32,
) -> Any:
    """Returns the min_p, or else the temperature, that a row's formula sets.

    ``x`` [V]: its logits, and their ``figures``; ``columns``: its StepRow; ``temperature`` > 0 and ``min_p``:
    its base values.
    """
    terms, limits = row.terms, row.temperatures
    figure = min(max(figure_of(x, row, columns, figures, weights), -FINITE), FINITE)
    if row.sets_min_p:
        return max(min_p, terms[0] + terms[1] * math.exp(min(terms[2] * figure / temperature, 0.0)))
    return min(max(terms[0] + terms[1] * math.exp(terms[2] * figure), limits[0]), limits[1])
