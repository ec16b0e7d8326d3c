"""Threads that walk through the same program: who am I, how many are we, and wait for the others."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._native import native
from .._threads import claim

_INT = ir.IntType(64)
_INT32 = ir.IntType(32)
_PATIENCE = 10000
"""looks at the team's round before a waiting thread sleeps"""
_FUTEX, _GET_AFFINITY, _SET_AFFINITY, _GET_CPU = {
    "x86_64": (202, 204, 203, 309),
    "aarch64": (98, 123, 122, 168),
}.get(platform.machine(), (-1, -1, -1, -1))
"""Linux's numbers of system calls; -1 fails, and threads then go on looking and stay where they are"""
_MASK_BYTES = 1024
_WAIT, _WAKE = 128, 129
"""operations on a futex of this process alone"""

# cells of the shared data, a cache line apart: threads write them while others read the rest
TICKET = 0
"""thread numbers given out; 0 before the team starts"""
ARRIVED = 8
ROUND = 16
UNIT = 24
"""the next unit of work of this phase; 0 behind every :func:`meet`"""
SLEEPERS = 32
TEAM_SIZE = 40
"""address of omp_get_num_threads, 0 where one thread works alone"""
PLACES = 48
"""the processor of each of the first MOST_PLACED threads"""
MOST_PLACED = 64
CELLS = PLACES + MOST_PLACED

_system = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))


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


@intrinsic  # type: ignore[untyped-decorator]
def _leave(typing: Any, data: Any, index: Any) -> Any:
    """data[index]--, atomically."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("sub", cell, ir.Constant(_INT, 1), "acq_rel")

    return types.int64(data, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _place(typing: Any, data: Any, index: Any) -> Any:
    """The address of data[index]; the system call sees its lower half (on little-endian processors)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), _INT)

    return types.int64(data, types.int64), generate


@native()
def team_size(data: Any) -> int:
    """Threads that run this program: the runtime may have given fewer than were asked for."""
    return _call(data[TEAM_SIZE]) if data[TEAM_SIZE] else 1


@native()
def meet(data: Any, threads: int) -> None:
    """Wait until all threads are here; then the count of units begins anew.

    A short wait watches: waking a sleeping thread takes longer than most phases last. In a long one the
    thread sleeps, and where two share a processor the kernel then finds another one for it; it does not for
    threads that only give way to each other.
    """
    if threads == 1:
        data[UNIT] = 0
        return
    now = _look(data, ROUND)
    if claim(data, ARRIVED) == threads - 1:
        data[ARRIVED] = 0
        data[UNIT] = 0
        claim(data, ROUND)
        if _look(data, SLEEPERS) > 0:
            _system(_FUTEX, _place(data, ROUND), _WAKE, threads, 0, 0, 0)
        return
    looks = 0
    while _look(data, ROUND) == now and looks < _PATIENCE:
        looks += 1
    if _look(data, ROUND) == now:
        claim(data, SLEEPERS)
        while _look(data, ROUND) == now:
            _system(_FUTEX, _place(data, ROUND), _WAIT, now, 0, 0, 0)
        _leave(data, SLEEPERS)


@native()
def spread(data: Any, me: int, threads: int) -> None:
    """Move away from a processor that a thread before this one runs on.

    Linux may wake a team on one processor and leave it there while others idle: two threads are then slower
    than one. The mask is narrowed for a moment only: the thread may be moved again.
    """
    if threads == 1 or threads > MOST_PLACED:
        return
    seen = np.empty(1, dtype=np.int32)
    if _system(_GET_CPU, seen.ctypes.data, 0, 0, 0, 0, 0) != 0:
        seen[0] = -1 - me
    data[PLACES + me] = seen[0]
    meet(data, threads)
    taken = False
    for other in range(me):
        taken |= data[PLACES + other] == seen[0]
    if not taken:
        return
    allowed = np.zeros(_MASK_BYTES, dtype=np.uint8)
    size = _system(_GET_AFFINITY, 0, _MASK_BYTES, allowed.ctypes.data, 0, 0, 0)
    free = allowed.copy()
    for other in range(threads):
        cpu = data[PLACES + other]
        if 0 <= cpu < 8 * _MASK_BYTES:
            free[cpu // 8] &= ~np.uint8(1 << (cpu % 8))
    if size > 0 and free.any():
        _system(_SET_AFFINITY, 0, size, free.ctypes.data, 0, 0, 0)
        _system(_SET_AFFINITY, 0, size, allowed.ctypes.data, 0, 0, 0)
