"""The native program of a row, from its logits to its packed line; it cannot depend on the rows beside it.

It is :func:`entropick_sampler.policy.decide` and :func:`entropick_sampler.step.sample_step` for a single row.
Of the five strategies' parameters only those of the strategy that was picked are computed here.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from entropick_kernels.loops import draw_beside, native, philox_number, row_log_z, row_stats, row_top

from .. import packed
from ..compose import (
    BUDGET,
    DRAWN,
    LABEL,
    N_PARAMETERS,
    N_SIGNALS,
    N_STRATEGIES,
    RANK_STEP,
    ROUNDING,
    SIDES,
    Ranks,
)
from ..formulas import PARAMETERS
from ..opening import OpeningWeights
from ..profile import QUANTILE_LEVELS
from ..score import CONFIDENCE_CONSTANT, CONFIDENCE_WEIGHTS
from ..signals import ATTENTION_SIGNALS
from ..strategy import Strategy
from .adjusted import AdjustedRows, adjust_before, penalise_seen, restore_seen
from .one_formula import adjusted

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Record = Any
"""An element of an array of records, whose fields are read by name."""

_FROM_LOGITS: Final = N_SIGNALS - len(ATTENTION_SIGNALS)
"""Signals that come before the attention's."""
_CLARIFY: Final = int(Strategy.CLARIFY)
_GREEDY: Final = int(Strategy.GREEDY)
_TEMPERATURE: Final = PARAMETERS.index("temperature")
_TOP_P: Final = PARAMETERS.index("top_p")
_TOP_K: Final = PARAMETERS.index("top_k")
_MIN_P: Final = PARAMETERS.index("min_p")
_FIRST_LEVEL: Final = QUANTILE_LEVELS[0]
_LN2: Final = math.log(2.0)
_ZERO: Final = np.float32(0.0)
_WEIGHTS: Final = np.array(CONFIDENCE_WEIGHTS)


class Scratch(NamedTuple):
    """The working memory of one thread: arrays of V, of the C draws, and of the figures of a row."""

    weights: Float32
    cdf: Floats
    ids: Integers
    uniforms: Floats
    tokens: Integers
    figures: Float32
    """entropy, varentropy, largest logit, ln z, 1 / z"""
    values: Floats
    """the policy's signals, 0 where not valid"""
    valid: Flags
    seen: Floats
    """the signals as the formulas read them"""
    parameters: Floats
    before: Float32
    """the logits of a row's seen tokens before penalties"""


@native()
def rank(value: float, low: Floats, scale: Floats) -> float:
    """Returns the rank of a value among a signal's quantiles [Q - 1], NaN for NaN."""
    total = 0.0
    for q in range(low.shape[0]):
        share = (value - low[q]) * scale[q]
        share = 0.0 if share < 0 else 1.0 if share > 1 else share
        total += share * RANK_STEP[q]
    return total + _FIRST_LEVEL


@native()
def decide_row(row: Record, repeated: int, ranks: Ranks, opening: float, s: Scratch) -> int:
    """Returns the strategy of a row, and leaves the parameters of its draw in ``s.parameters``.

    ``repeated``: the newest tokens of its reply that stood in it before; ``opening``: its opening score, read
    where the row's discriminant adds it.
    """
    weights, unread = row.clarify_weights, row.unread
    clear, discriminant = True, 0.0
    for i in range(N_SIGNALS):
        if not row.ranked:
            s.seen[i] = s.values[i]
        elif s.valid[i]:
            s.seen[i] = rank(s.values[i], ranks.low[i], ranks.scale[i])
        else:
            s.seen[i] = 0.5
        discriminant += weights[i] * s.values[i]
        clear = clear and (s.valid[i] != 0 or unread[i] != 0)
    if row.opens:
        discriminant += opening
    clear = clear and discriminant > row.clarify_cut
    looping = repeated >= row.loop_length
    cuts = row.cuts
    strategy = 0
    for candidate in range(N_STRATEGIES):
        hit = (candidate != _CLARIFY or clear) and (candidate != _GREEDY or not looping)
        for axis in range(2):
            hit = hit and s.values[axis] * SIDES[axis, candidate] > cuts[axis, candidate]
        if hit:
            strategy = candidate
            break
    coefficients, constants, low, high = row.coefficients, row.constants, row.low, row.high
    for p in range(N_PARAMETERS):
        value = 0.0
        for i in range(N_SIGNALS):
            value += coefficients[strategy, p, i] * s.seen[i]
        value += constants[strategy, p]
        value = low[strategy, p] if value < low[strategy, p] else value
        value = high[strategy, p] if value > high[strategy, p] else value
        s.parameters[p] = (value + ROUNDING[strategy, p]) - ROUNDING[strategy, p]
    if looping and s.parameters[_TEMPERATURE] < row.loop_temperature:
        s.parameters[_TEMPERATURE] = row.loop_temperature
    return strategy


@native()
def logprob_of(x: Float32, token: int, figures: Float32) -> Any:
    """Returns log p of a token, nats."""
    # minus the maximum first: the sum of maximum and ln z would lose digits at large logits
    return np.float32(np.float32(x[token] - figures[2]) - figures[3])


@native()
def opening_row(x: Float32, position: int, opening: OpeningWeights, s: Scratch) -> float:
    """Returns the opening score of a row, -infinity where its token is not the first of a reply."""
    if position != 0:
        return -math.inf
    score = 0.0
    for k in range(opening.ids.shape[0]):
        score += float(logprob_of(x, opening.ids[k], s.figures)) * opening.weights[k]
    return score if math.isfinite(score) else -math.inf


@native()
def measure_row(x: Float32, attention: Float32, attended: int, measure: bool, s: Scratch) -> tuple[int, int]:
    """Returns the most probable token of a row and its flags, and leaves its signals in ``s.values``."""
    if measure:
        best, flag = row_stats(x, s.figures, s.weights)
    else:
        best, flag = row_log_z(x, s.figures)
    for i in range(N_SIGNALS):
        s.valid[i] = measure and (i < _FROM_LOGITS or attended)
        s.values[i] = 0.0
        if s.valid[i]:
            s.values[i] = s.figures[i] if i < _FROM_LOGITS else attention[i - _FROM_LOGITS]
            if i >= _FROM_LOGITS and math.isnan(s.values[i]):
                s.valid[i], s.values[i] = 0, 0.0
    return best, flag


@native()
def draw_row(
    x: Float32,
    best: int,
    row: Record,
    position: int,
    candidates: int,
    top_k: int,
    s: Scratch,
) -> None:
    """Draws the candidates of a row and the first tokens of further branches into ``s.tokens``."""
    for j in range(s.uniforms.shape[0]):
        # the first token of another branch is draw 0 of that branch's stream
        branch = max(j - candidates + 1, 0)
        s.uniforms[j] = philox_number(row.seed, position, 0 if branch else j, row.stream + branch)
    draw_beside(
        x,
        best,
        float(np.float32(s.parameters[_TEMPERATURE])),
        top_k,
        s.parameters[_TOP_P],
        s.parameters[_MIN_P],
        s.uniforms,
        s.tokens,
        s.weights,
        s.cdf,
        s.ids,
    )


@native()
def adjust_row(x: Float32, row: Record, columns: Record, s: Scratch) -> None:
    """Changes ``s.parameters`` as the one formula of a row says."""
    set_here = _MIN_P if row.sets_min_p else _TEMPERATURE
    s.parameters[set_here] = adjusted(
        x, row, columns, s.parameters[_TEMPERATURE], s.parameters[_MIN_P], s.figures, s.weights
    )


@native()
def sample_row(
    x: Float32,
    attention: Float32,
    attended: int,
    columns: Record,
    row: Record,
    ranks: Ranks,
    opening: OpeningWeights,
    candidates: int,
    measure: bool,
    b: int,
    adjustments: AdjustedRows,
    s: Scratch,
    line: Floats,
) -> None:
    """Writes the line of a row, as :mod:`entropick_sampler.packed` describes it.

    ``x`` [V]: its logits; ``attention`` [7], measured where ``attended``; ``columns``: its StepRow; ``row``:
    its ROW; ``measure`` False: no signal is measured; ``b``: its number, by which ``adjustments``
    has its own.
    """
    adjust_before(x, b, adjustments)
    best, flag = measure_row(x, attention, attended, measure, s)
    score = opening_row(x, columns.position, opening, s) if row.opens else -math.inf
    strategy = decide_row(row, columns.repeated, ranks, score, s)
    choices = row.choices
    if row.figure != 0 and flag == 0:
        adjust_row(x, row, columns, s)

    free = columns.forced < 0
    insert = (
        free
        and columns.clarify >= 0
        and columns.clarify_used < choices[BUDGET, strategy]
        and columns.since_clarify >= row.cooldown
    )
    top_k = 0 if flag else int(s.parameters[_TOP_K])
    penalised = flag == 0 and penalise_seen(x, b, adjustments, s.before)
    if penalised:
        best = row_top(x)
    s.tokens[:] = best
    if flag == 0 and np.float32(s.parameters[_TEMPERATURE]) > 0:
        draw_row(x, best, row, columns.position, candidates, top_k, s)

    drawn = choices[DRAWN, strategy]
    token, highest = s.tokens[0], logprob_of(x, s.tokens[0], s.figures)
    for j in range(1, min(candidates, drawn)):
        logprob = logprob_of(x, s.tokens[j], s.figures)
        if logprob > highest:
            token, highest = s.tokens[j], logprob
    if penalised:
        # log probabilities are those of the measured distribution
        restore_seen(x, b, adjustments, s.before)
    token = columns.clarify if insert else token if free else columns.forced

    line[packed.TEMPERATURE] = s.parameters[_TEMPERATURE]
    line[packed.TOP_P] = s.parameters[_TOP_P]
    line[packed.MIN_P] = s.parameters[_MIN_P]
    line[packed.STRATEGY] = choices[LABEL, strategy]
    line[packed.TOP_K] = top_k
    line[packed.N_CANDIDATES] = drawn
    line[packed.INSERTED] = insert
    line[packed.FLAGS] = flag
    draws = s.tokens.shape[0]
    ids = packed.HEADER
    logprobs = ids + 1 + draws
    scores = logprobs + 1 + draws
    values = scores + draws
    emitted = min(logprob_of(x, token, s.figures), _ZERO)
    line[ids], line[logprobs] = token, emitted
    confidence = CONFIDENCE_CONSTANT
    for i in range(N_SIGNALS):
        confidence += s.values[i] * _WEIGHTS[i]
        line[values + i] = s.values[i] if s.valid[i] else math.nan
    for j in range(draws):
        logprob = logprob_of(x, s.tokens[j], s.figures)
        line[ids + 1 + j] = s.tokens[j]
        line[logprobs + 1 + j] = logprob
        line[scores + j] = np.float32(logprob + np.float32(confidence))
    surprisal = abs(np.float32(emitted / _LN2))
    line[values + N_SIGNALS] = surprisal if measure else math.nan
    line[values + N_SIGNALS + 1] = np.float32(surprisal - s.figures[0]) if measure else math.nan
    line[values + N_SIGNALS + 2] = columns.repeated if measure else math.nan
    line[values + N_SIGNALS + 3], line[values + N_SIGNALS + 4] = s.figures[2], s.figures[3]
