"""The call of the native step: the resident records of a batch, the arguments of a step, and its threads."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from entropick_kernels.loops import address, claim, native_worker, run, threads_for

from ..adjustments import Adjustments
from ..columns import StepColumns, StepRow
from ..compose import N_PARAMETERS, N_SIGNALS, ROW, Composition, Ranks
from ..opening import OpeningWeights
from ..packed import FIXED_COLUMNS
from ..signals import ATTENTION_SIGNALS
from .adjusted import AdjustedRecord, adjusted_rows
from .row import Scratch, sample_row

_A: Final = len(ATTENTION_SIGNALS)
_CHUNK: Final = 1024
"""Logits that are measured at a time, whatever V is."""
_WORK_PER_LOGIT: Final = 24
_RESIDENT: Final = ("records", "rank_low", "rank_scale", "opening_ids", "opening_weights")
_Address: Final = ctypes.POINTER(ctypes.c_int64)

STEP: Final = np.dtype([(name, np.float64 if name == "surprisal" else np.int64) for name in StepRow._fields])
"""A line of StepColumns as a record."""
ARGUMENTS: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("next_row", "here", "rows", "vocabulary", "candidates", "draws", "steps", "measure"),
            *("tokens", "opening_ids", "opening_weights", "adjusted"),
            *("records", "rank_low", "rank_scale", "logits", "attention", "attended", "columns", "lines"),
        )
    ]
)
"""The arguments of a step.

``next_row``: the row that a thread takes next; ``here``: the address of these arguments; ``rows``,
``vocabulary``: B, V; ``candidates``, ``draws``: N, C = N + W; ``steps``: Q - 1; ``measure``: 0 or 1;
``tokens``: K, the number of opening weights. The others are addresses: of the composition's arrays, of
the adjustments (ADJUSTED), of logits float32 [B, V], attention float32 [B, 7], attended uint8 [B], columns
STEP [B], and the lines float64 [B, ...].
"""


def _worker(data: Any) -> None:
    """Samples rows until none is left, on one thread; ``data``: ARGUMENTS."""
    # a typed pointer cannot be read as records: hence the second argument, its own address
    a = numba.carray(address(data[1]), (1,), ARGUMENTS)[0]
    rows, vocabulary, draws = a.rows, a.vocabulary, a.draws
    records = numba.carray(address(a.records), (rows,), ROW)
    ranks = Ranks(
        numba.carray(address(a.rank_low), (N_SIGNALS, a.steps), np.float64),
        numba.carray(address(a.rank_scale), (N_SIGNALS, a.steps), np.float64),
    )
    opening = OpeningWeights(
        numba.carray(address(a.opening_ids), (a.tokens,), np.int64),
        numba.carray(address(a.opening_weights), (a.tokens,), np.float64),
    )
    logits = numba.carray(address(a.logits), (rows, vocabulary), np.float32)
    attention = numba.carray(address(a.attention), (rows, _A), np.float32)
    attended = numba.carray(address(a.attended), (rows,), np.uint8)
    columns = numba.carray(address(a.columns), (rows,), STEP)
    lines = numba.carray(address(a.lines), (rows, FIXED_COLUMNS + 3 * draws), np.float64)
    adjustments, before = adjusted_rows(a.adjusted)
    scratch = Scratch(
        weights=np.empty(max(vocabulary, _CHUNK), np.float32),
        cdf=np.empty(vocabulary, np.float64),
        ids=np.empty(vocabulary, np.int64),
        uniforms=np.empty(draws, np.float64),
        tokens=np.empty(draws, np.int64),
        figures=np.empty(5, np.float32),
        values=np.empty(N_SIGNALS, np.float64),
        valid=np.empty(N_SIGNALS, np.uint8),
        seen=np.empty(N_SIGNALS, np.float64),
        parameters=np.empty(N_PARAMETERS, np.float64),
        before=before,
    )
    candidates, measure = a.candidates, a.measure != 0
    b = claim(data, 0)
    while b < rows:
        sample_row(
            x=logits[b],
            attention=attention[b],
            attended=attended[b],
            columns=columns[b],
            row=records[b],
            ranks=ranks,
            opening=opening,
            candidates=candidates,
            measure=measure,
            b=b,
            adjustments=adjustments,
            s=scratch,
            line=lines[b],
        )
        b = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    return native_worker(_worker)


class NativeStep:
    """The native step of a batch: the resident arguments, and the call that adds the new arguments."""

    def __init__(self, composition: Composition) -> None:
        """Keeps the composition's arrays, which the native code reads where they lie."""
        records, ranks = composition.records, composition.ranks
        self._kept = composition
        self._rows = len(records)
        self._draws = composition.candidates + composition.firsts
        self._data = np.zeros(ARGUMENTS.itemsize // 8, dtype=np.int64)
        self._start = self._data.ctypes.data_as(_Address)
        self._arguments = a = self._data.view(ARGUMENTS)[0]
        a["here"] = self._data.ctypes.data
        a["rows"], a["candidates"], a["draws"] = self._rows, composition.candidates, self._draws
        a["steps"] = ranks.low.shape[1]
        a["tokens"] = len(composition.opening.ids)
        arrays = (records, ranks.low, ranks.scale, *composition.opening)
        for name, array in zip(_RESIDENT, arrays, strict=True):
            a[name] = array.ctypes.data
        self._adjusted = AdjustedRecord(self._rows)
        a["adjusted"] = self._adjusted.address
        self._everywhere = np.ones(self._rows, dtype=np.uint8)
        self._nowhere = np.zeros(self._rows, dtype=np.uint8)
        self._unseen = np.zeros((self._rows, _A), dtype=np.float32)

    def step(
        self,
        logits: Tensor,
        attention: Tensor | None,
        attended: Tensor | None,
        columns: StepColumns,
        measure: bool = True,
        adjustments: Adjustments | None = None,
    ) -> Tensor:
        """Returns the packed lines float64 [B, ...] of a step.

        ``logits`` float32 [B, V]; ``attention`` [B, 7], measured where ``attended`` bool [B] is (None: in all
        rows); ``measure`` False: no signal is measured, every signal is absent. The caller must make sure
        that all tensors have B rows, measure where a row's policy is on, and give contiguous logits and
        adjustments that fit them: masks and what is added change the logits in place.
        """
        x, inputs = logits.contiguous(), columns.data.contiguous()
        if attention is None:
            at, where = self._unseen.ctypes.data, self._nowhere.ctypes.data
        else:
            seen = attention.to(torch.float32).contiguous()
            known = None if attended is None else attended.contiguous()
            at = seen.data_ptr()
            where = self._everywhere.ctypes.data if known is None else known.data_ptr()
        self._adjusted.put(adjustments)
        lines = torch.empty(self._rows, FIXED_COLUMNS + 3 * self._draws, dtype=torch.float64)
        a = self._arguments
        a["next_row"], a["vocabulary"], a["measure"] = 0, x.shape[1], measure
        a["logits"], a["attention"], a["attended"] = x.data_ptr(), at, where
        a["columns"], a["lines"] = inputs.data_ptr(), lines.data_ptr()
        threads = 1 if self._rows == 1 else min(self._rows, threads_for(x.numel() * _WORK_PER_LOGIT))
        worker = _compiled_worker()
        if threads > 1:
            run(worker, self._data, threads)
        else:
            worker.ctypes(self._start)
        return lines


def warmup() -> None:
    """Compiles the native step, or loads it from numba's cache."""
    _compiled_worker()
