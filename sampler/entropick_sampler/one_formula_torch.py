"""The policies with one formula for a batch, as tensor operations on any device.

The rows of a figure are taken out of the batch, measured, and their parameter is put back; rows without a
formula cost nothing. The formulas: :mod:`.one_formula`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from entropick_kernels.logits_shape import log_temperature, logits_spread, prefix_depth
from entropick_kernels.logits_stats import Kernels, LogitsStats

from .columns import PolicyMemory
from .compose import Composition
from .one_formula import FINITE, LN2, MARGIN, Figure, surprisal_limit
from .policy import Decision, PolicyRows


class FigureRows(NamedTuple):
    """The R rows of a batch whose formulas read one figure.

    ``at`` int64 [R]: their numbers in the batch; ``inputs`` [R, 2], ``terms`` [R, 3], ``temperatures`` [R, 2]
    as in :data:`.compose.ROW`, float64. ``sets_min_p`` is known to the host: a figure belongs to one
    parameter.
    """

    figure: Figure
    sets_min_p: bool
    at: Tensor
    inputs: Tensor
    terms: Tensor
    temperatures: Tensor


def figure_rows(composition: Composition, rows: PolicyRows) -> tuple[FigureRows, ...]:
    """Returns the rows of each figure; made when the batch's composition changes, not in every step."""
    made = []
    for figure, numbers in composition.figures.items():
        at = torch.tensor(numbers, device=rows.terms.device)
        parts = (rows.inputs[at], rows.terms[at], rows.temperatures[at])
        made.append(FigureRows(figure, bool(composition.records["sets_min_p"][numbers[0]]), at, *parts))
    return tuple(made)


def adjust(
    decision: Decision,
    logits: Tensor,
    measured: LogitsStats,
    memory: PolicyMemory,
    groups: tuple[FigureRows, ...],
    kernels: Kernels | None = None,
) -> Decision:
    """Returns a decision with the parameters that the rows' formulas set.

    ``logits`` [B, V], with their ``measured`` statistics; ``groups``: of :func:`figure_rows`. A row whose
    logits are bad keeps its parameters.
    """
    for group in groups:
        at, (offset, scale, weight) = group.at, group.terms.unbind(1)
        temperature, min_p = decision.temperature[at], decision.min_p[at]
        figure = _figure(group, logits, measured, memory, kernels).clamp(-FINITE, FINITE)
        good = measured.flags[at] == 0
        if group.sets_min_p:
            floor = offset + scale * (weight * figure / temperature).clamp_max(0.0).exp()
            value = torch.where(good, torch.maximum(min_p, floor), min_p)
            decision = decision._replace(min_p=decision.min_p.index_copy(0, at, value))
        else:
            low, high = group.temperatures.unbind(1)
            value = torch.clamp(offset + scale * (weight * figure).exp(), low, high)
            value = torch.where(good, value, temperature)
            decision = decision._replace(temperature=decision.temperature.index_copy(0, at, value))
    return decision


def _figure(
    group: FigureRows, logits: Tensor, measured: LogitsStats, memory: PolicyMemory, kernels: Kernels | None
) -> Tensor:
    """Returns the figure of a group's rows, float64 [R]; it may be infinite."""
    at, (first, second) = group.at, group.inputs.unbind(1)
    match group.figure:
        case Figure.INVERSE_ENTROPY:
            return 1.0 / (measured.entropy[at].double() * LN2)
        case Figure.LOG_RELATIVE_ENTROPY:
            largest = logits_spread(logits[at]).tokens.log()
            # of a single token both are 0
            return (measured.entropy[at].double().clamp_min(0.0) * LN2).log() - largest.clamp_min(
                1e-300
            ).log()
        case Figure.LOG_TEMPERATURE:
            low, high = group.temperatures.log().unbind(1)
            return log_temperature(logits[at], first, low, high, kernels=kernels)
        case Figure.DEVIATION:
            return logits_spread(logits[at]).deviation
        case Figure.SURPRISAL_ROOM:
            limit: Tensor = surprisal_limit(first, second, memory.surprisal[at], memory.tokens[at])
            return measured.log_z[at].double() - limit * LN2
        case Figure.PREFIX_DEPTH:
            depth = prefix_depth(logits[at], first)
            return -(depth + MARGIN * (1 + depth))
