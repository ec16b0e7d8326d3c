"""Threads that walk through the same program: who am I, how many are we, and wait for the others."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._native import native
from .._threads import claim

_INT = ir.IntType(64)
_INT32 = ir.IntType(32)
_PATIENCE = 2000
"""looks at the clock of the team before a waiting thread offers its processor to others"""

# cells of the shared data, a cache line apart: threads write them while others read the rest
TICKET = 0
"""thread numbers given out; 0 before the team starts"""
ARRIVED = 8
ROUND = 16
UNIT = 24
"""the next unit of work of this phase; 0 behind every :func:`meet`"""
TEAM_SIZE = 32
"""address of omp_get_num_threads, 0 where one thread works alone"""
CELLS = 40

_give_way = types.ExternalFunction("sched_yield", types.int32())


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any) -> Any:
    """The result of the C function int(void) at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_INT32, []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(arguments[0], kind), []), _INT)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _look(typing: Any, data: Any, index: Any) -> Any:
    """data[index] as the other threads left it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(data, types.int64), generate


@native()
def team_size(data: Any) -> int:
    """Threads that run this program: the runtime may have given fewer than were asked for."""
    return _call(data[TEAM_SIZE]) if data[TEAM_SIZE] else 1


@native()
def meet(data: Any, threads: int) -> None:
    """Wait until all threads are here; then the count of units begins anew.

    A short wait watches: waking a sleeping thread takes longer than most phases last. A long one lets other
    processes run.
    """
    if threads == 1:
        data[UNIT] = 0
        return
    now = _look(data, ROUND)
    if claim(data, ARRIVED) == threads - 1:
        data[ARRIVED] = 0
        data[UNIT] = 0
        claim(data, ROUND)
        return
    looks = 0
    while _look(data, ROUND) == now:
        looks += 1
        if looks > _PATIENCE:
            _give_way()
