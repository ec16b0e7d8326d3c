"""A sampling step on the CPU as one native call: measure, decide, draw and pack, row by row. Needs numba.

What it computes is said by :func:`entropick_sampler.step.sample_step`, which stays the form for every device;
the two agree to a few units in the last place, and to the bit in tokens but where a uniform number or a cut
point lies within that of a boundary. A row is one program from its logits to its line: nothing in it can
depend on the rows beside it.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropick_kernels.loops import (
    address,
    claim,
    draw_beside,
    native,
    native_worker,
    philox_number,
    row_log_z,
    row_stats,
    run,
    threads_for,
)

from .formulas import PARAMETERS
from .native_policy import Tables, decide_row
from .packed import FIXED_COLUMNS, HEADER
from .params import Strategy
from .policy import PolicyRows
from .score import CONFIDENCE_CONSTANT, CONFIDENCE_WEIGHTS
from .signals import ATTENTION_SIGNALS, POLICY_SIGNALS

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

_S: Final = len(POLICY_SIGNALS)
_A: Final = len(ATTENTION_SIGNALS)
_HEADER: Final = HEADER
_FIXED: Final = FIXED_COLUMNS
_N: Final = len(Strategy)
_P: Final = len(PARAMETERS)
_CELLS: Final = _N * _P
_LN2: Final = math.log(2.0)
_ZERO: Final = np.float32(0.0)
_CHUNK: Final = 1024
_WEIGHTS: Final = np.array(CONFIDENCE_WEIGHTS)
_CONSTANT: Final = CONFIDENCE_CONSTANT
_WORK_PER_LOGIT: Final = 24
# the data of a step: next row, B, V, N + W, quantiles, N, whether to measure; then addresses
_TABLES: Final = 7
_DRAWS: Final = _TABLES + len(Tables._fields)
_COLUMNS: Final = _DRAWS + 3
_OUT: Final = _COLUMNS + 8
_SIZE: Final = _OUT + 1
_Address: Final = ctypes.POINTER(ctypes.c_int64)


class Draws(NamedTuple):
    """What numbers the uniform numbers of a batch: each [B, N + W], as in :class:`~.step.SamplerRows`."""

    seeds: Integers
    draws: Integers
    branch: Integers


class Columns(NamedTuple):
    """What is new in a step: logits [B, V], attention [B, 6]; the other fields [B]."""

    logits: Float32
    attention: Float32
    positions: Integers
    forced: Integers
    clarify: Integers
    clarify_used: Integers
    tokens_since_clarify: Integers
    attended: Flags
    """whether ``attention`` was measured"""
    measure: bool


class Scratch(NamedTuple):
    """One thread's room: three times V, and the small arrays of a row."""

    weights: Float32
    cdf: Floats
    ids: Integers
    uniforms: Floats
    tokens: Integers
    figures: Float32
    values: Floats
    valid: Flags
    seen: Floats
    parameters: Floats


@native()
def logprob_of(x: Float32, token: int, figures: Float32) -> Any:
    """log p of a token, nats; minus the maximum first: their sum would lose digits at large logits."""
    return np.float32(np.float32(x[token] - figures[2]) - figures[3])


@native()
def sample_row(
    b: int, step: Columns, tables: Tables, draws: Draws, candidates: int, s: Scratch, line: Floats
) -> None:
    """Row b of a step: its line [C], and its new policy state in place."""
    x = step.logits[b]
    columns = draws.seeds.shape[1]
    if step.measure:
        index, flag = row_stats(x, s.figures, s.weights)
    else:
        index, flag = row_log_z(x, s.figures)
    for i in range(_S):
        s.valid[i] = step.measure and (i < _S - _A or step.attended[b])
        s.values[i] = 0.0
        if s.valid[i]:
            s.values[i] = s.figures[i] if i < _S - _A else step.attention[b, i - (_S - _A)]
    strategy = decide_row(tables, b, s.values, s.valid, s.seen, s.parameters)
    label, chosen, budget = tables.numbers[:, b * _N + strategy]

    free = step.forced[b] < 0
    insert = (
        free
        and step.clarify[b] >= 0
        and step.clarify_used[b] < budget
        and step.tokens_since_clarify[b] >= tables.cooldown[b]
    )
    step.clarify_used[b] += insert
    step.tokens_since_clarify[b] = 0 if insert else step.tokens_since_clarify[b] + 1

    temperature = np.float32(s.parameters[0])
    top_k = 0 if flag else int(s.parameters[2])
    s.tokens[:] = index
    if flag == 0 and temperature > 0:
        for j in range(columns):
            s.uniforms[j] = philox_number(
                draws.seeds[b, j], step.positions[b], draws.draws[b, j], draws.branch[b, j]
            )
        draw_beside(
            x,
            index,
            float(temperature),
            top_k,
            s.parameters[1],
            s.parameters[3],
            s.uniforms,
            s.tokens,
            s.weights,
            s.cdf,
            s.ids,
        )

    token, best = s.tokens[0], logprob_of(x, s.tokens[0], s.figures)
    for j in range(1, min(candidates, chosen)):
        logprob = logprob_of(x, s.tokens[j], s.figures)
        if logprob > best:
            token, best = s.tokens[j], logprob
    token = step.clarify[b] if insert else token if free else step.forced[b]

    line[0], line[1], line[2] = s.parameters[0], s.parameters[1], s.parameters[3]
    line[3], line[4], line[5] = label, top_k, chosen
    line[6], line[7], line[8] = insert, flag, token
    logprobs = _HEADER + 1 + columns
    scores = logprobs + 1 + columns
    values = scores + columns
    emitted = min(logprob_of(x, token, s.figures), _ZERO)
    line[logprobs] = emitted
    confidence = _CONSTANT
    for i in range(_S):
        confidence += s.values[i] * _WEIGHTS[i]
        line[values + i] = s.values[i] if s.valid[i] else math.nan
    for j in range(columns):
        logprob = logprob_of(x, s.tokens[j], s.figures)
        line[_HEADER + 1 + j] = s.tokens[j]
        line[logprobs + 1 + j] = logprob
        line[scores + j] = np.float32(logprob + np.float32(confidence))
    line[values + _S + 1], line[values + _S + 2] = s.figures[2], s.figures[3]
    line[values + _S] = abs(np.float32(emitted / _LN2)) if step.measure else math.nan


@native()
def _ints(data: Any, at: int, n: int) -> Any:
    return numba.carray(address(data[at]), (n,), np.int64)


@native()
def _floats(data: Any, at: int, rows: int, columns: int) -> Any:
    return numba.carray(address(data[at]), (rows, columns), np.float64)


def _worker(data: Any) -> None:
    """One thread's rows; ``data`` as :class:`NativeRows` lays it out."""
    rows, vocabulary, columns, steps = data[1], data[2], data[3], data[4]
    cells = numba.carray(address(data[_TABLES + 5]), (rows, _CELLS, _S), np.float64)
    cuts = numba.carray(address(data[_TABLES]), (rows, 2, _N), np.float64)
    numbers = numba.carray(address(data[_TABLES + 10]), (3, rows * _N), np.int64)
    unread = numba.carray(address(data[_TABLES + 4]), (rows, _S), np.uint8)
    ranked = numba.carray(address(data[_TABLES + 11]), (rows,), np.uint8)
    tables = Tables(
        cuts,
        _floats(data, _TABLES + 1, 2, _N),
        _floats(data, _TABLES + 2, rows, _S),
        _floats(data, _TABLES + 3, 1, rows)[0],
        unread,
        cells,
        _floats(data, _TABLES + 6, rows, _CELLS),
        _floats(data, _TABLES + 7, rows, _CELLS),
        _floats(data, _TABLES + 8, rows, _CELLS),
        _floats(data, _TABLES + 9, 1, _CELLS)[0],
        numbers,
        ranked,
        _ints(data, _TABLES + 12, rows),
        _floats(data, _TABLES + 13, _S, steps),
        _floats(data, _TABLES + 14, _S, steps),
        _floats(data, _TABLES + 15, 1, steps)[0],
    )
    draws = Draws(
        _ints(data, _DRAWS, rows * columns).reshape(rows, columns),
        _ints(data, _DRAWS + 1, rows * columns).reshape(rows, columns),
        _ints(data, _DRAWS + 2, rows * columns).reshape(rows, columns),
    )
    step = Columns(
        numba.carray(address(data[_COLUMNS]), (rows, vocabulary), np.float32),
        numba.carray(address(data[_COLUMNS + 1]), (rows, _A), np.float32),
        _ints(data, _COLUMNS + 2, rows),
        _ints(data, _COLUMNS + 3, rows),
        _ints(data, _COLUMNS + 4, rows),
        _ints(data, _COLUMNS + 5, rows),
        _ints(data, _COLUMNS + 6, rows),
        numba.carray(address(data[_COLUMNS + 7]), (rows,), np.uint8),
        data[6] != 0,
    )
    out = _floats(data, _OUT, rows, _FIXED + 3 * columns)
    scratch = Scratch(
        np.empty(max(vocabulary, _CHUNK), np.float32),
        np.empty(vocabulary, np.float64),
        np.empty(vocabulary, np.int64),
        np.empty(columns, np.float64),
        np.empty(columns, np.int64),
        np.empty(5, np.float32),
        np.empty(_S, np.float64),
        np.empty(_S, np.uint8),
        np.empty(_S, np.float64),
        np.empty(_P, np.float64),
    )
    b = claim(data, 0)
    while b < rows:
        sample_row(b, step, tables, draws, data[5], scratch, out[b])
        b = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    return native_worker(_worker)


class NativeRows:
    """A batch's resident tables as the native step reads them; keeps what it points to."""

    def __init__(self, policy: PolicyRows, draws: tuple[Tensor, Tensor, Tensor], candidates: int) -> None:
        """``draws``: seeds, draws and branches, each int64 [B, N + W]; all on the CPU."""
        tables = Tables.of(policy)
        drawn = Draws(*(t.contiguous().numpy() for t in draws))
        self._kept = (tables, drawn)
        self._rows, self._columns = drawn.seeds.shape
        data = np.zeros(_SIZE, dtype=np.int64)
        data[1], data[3], data[4], data[5] = self._rows, self._columns, tables.rank_step.shape[0], candidates
        data[_TABLES:_DRAWS] = [a.ctypes.data for a in tables]
        data[_DRAWS:_COLUMNS] = [a.ctypes.data for a in drawn]
        self._data = data
        self._start = data.ctypes.data_as(_Address)
        self._attended = torch.ones(self._rows, dtype=torch.uint8)
        self._unseen = torch.zeros(self._rows, _A), torch.zeros(self._rows, dtype=torch.uint8)

    def step(
        self,
        logits: Tensor,
        attention: Tensor | None,
        attended: Tensor | None,
        columns: Tensor,
        measure: bool = True,
    ) -> Tensor:
        """The packed lines float64 [B, C] of a step.

        ``logits`` float32 [B, V]; ``attention`` [B, 6], where ``attended`` [B] is (None: in all
        rows); ``columns`` int64 [5, B], contiguous: positions, forced, clarify, and the policy's state, which
        is changed in place. ``measure`` False: no signal is measured, every one is absent; a row whose policy
        is on must not be there.
        """
        data, rows = self._data, self._rows
        if logits.shape[0] != rows or columns.shape != (5, rows) or not columns.is_contiguous():
            raise ValueError(
                f"expected logits of {rows} rows and contiguous columns [5, {rows}], got "
                f"{tuple(logits.shape)} and {tuple(columns.shape)}"
            )
        x = logits.contiguous()
        if attention is None:
            seen, where = self._unseen
        else:
            seen = attention.to(torch.float32).contiguous()
            where = self._attended if attended is None else attended.contiguous().view(torch.uint8)
        out = torch.empty(rows, _FIXED + 3 * self._columns, dtype=torch.float64)
        data[0], data[2], data[6] = 0, x.shape[1], measure
        first, line = columns.data_ptr(), 8 * rows
        data[_COLUMNS:] = (
            x.data_ptr(),
            seen.data_ptr(),
            *range(first, first + 5 * line, line),
            where.data_ptr(),
            out.data_ptr(),
        )
        threads = min(rows, threads_for(x.numel() * _WORK_PER_LOGIT))
        worker = _compiled_worker()
        if threads > 1:
            run(worker, data, threads)
        else:
            worker.ctypes(self._start)
        return out


def warmup() -> None:
    """Compile the step (or load it from numba's cache)."""
    _compiled_worker()
