"""A team of threads that walk through one program: their numbers, and how they wait for each other.

They share int64 cells, a cache line apart, since threads write them while others read the rest.
"""

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
PROGRAM = PLACES + MOST_PLACED
"""the address of the program's arguments"""
CELLS = PROGRAM + 1

_system = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, function: Any) -> Any:
    """Returns the result of the C function int(void) at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_INT32, []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(arguments[0], kind), []), _INT)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _look(typing: Any, cells: Any, index: Any) -> Any:
    """Returns cells[index] as the other threads left it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(cells, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _leave(typing: Any, cells: Any, index: Any) -> Any:
    """Subtracts 1 from cells[index], atomically."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("sub", cell, ir.Constant(_INT, 1), "acq_rel")

    return types.int64(cells, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _address_of(typing: Any, cells: Any, index: Any) -> Any:
    """Returns the address of cells[index].

    A system call sees its lower half, on little-endian processors.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), _INT)

    return types.int64(cells, types.int64), generate


@native()
def team_size(cells: Any) -> int:
    """Returns how many threads run the program: the runtime may have given fewer than were asked for."""
    return _call(cells[TEAM_SIZE]) if cells[TEAM_SIZE] else 1


@native()
def meet(cells: Any, threads: int) -> None:
    """Waits until all threads are here; then the count of units begins anew.

    A short wait watches: waking a sleeping thread takes longer than most phases last. In a long one the
    thread sleeps, and where two share a processor the kernel then finds another one for it; it does not for
    threads that only give way to each other.
    """
    if threads == 1:
        cells[UNIT] = 0
        return
    now = _look(cells, ROUND)
    if claim(cells, ARRIVED) == threads - 1:
        cells[ARRIVED] = 0
        cells[UNIT] = 0
        claim(cells, ROUND)
        if _look(cells, SLEEPERS) > 0:
            _system(_FUTEX, _address_of(cells, ROUND), _WAKE, threads, 0, 0, 0)
        return
    looks = 0
    while _look(cells, ROUND) == now and looks < _PATIENCE:
        looks += 1
    if _look(cells, ROUND) == now:
        claim(cells, SLEEPERS)
        while _look(cells, ROUND) == now:
            _system(_FUTEX, _address_of(cells, ROUND), _WAIT, now, 0, 0, 0)
        _leave(cells, SLEEPERS)


@native()
def spread(cells: Any, me: int, threads: int) -> None:
    """Moves the thread away from a processor that a thread before it runs on.

    Linux may wake a team on one processor and leave it there while others idle: two threads are then slower
    than one. The mask is narrowed for a moment only: the thread may be moved again.
    """
    if threads == 1 or threads > MOST_PLACED:
        return
    seen = np.empty(1, dtype=np.int32)
    if _system(_GET_CPU, seen.ctypes.data, 0, 0, 0, 0, 0) != 0:
        seen[0] = -1 - me
    cells[PLACES + me] = seen[0]
    meet(cells, threads)
    taken = False
    for other in range(me):
        taken |= cells[PLACES + other] == seen[0]
    if not taken:
        return
    allowed = np.zeros(_MASK_BYTES, dtype=np.uint8)
    size = _system(_GET_AFFINITY, 0, _MASK_BYTES, allowed.ctypes.data, 0, 0, 0)
    free = allowed.copy()
    for other in range(threads):
        cpu = cells[PLACES + other]
        if 0 <= cpu < 8 * _MASK_BYTES:
            free[cpu // 8] &= ~np.uint8(1 << (cpu % 8))
    if size > 0 and free.any():
        _system(_SET_AFFINITY, 0, size, free.ctypes.data, 0, 0, 0)
        _system(_SET_AFFINITY, 0, size, allowed.ctypes.data, 0, 0, 0)
