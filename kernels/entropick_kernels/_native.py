"""How the native CPU loops are compiled: numba, without the GIL, cached on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])


def native(*flags: str) -> Callable[[Function], Function]:
    """Compile a function at its first call for the types it gets.

    ``flags`` are LLVM fast-math flags. ``reassoc`` lets a sum be vectorised (the order stays a function of
    the length alone); flags that assume away NaN or infinity are never used: a bad row must show.
    """

    def compile_lazily(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(flags), "error_model": "numpy"}
        try:
            return cast(Function, numba.njit(cache=True, **options)(function))
        except RuntimeError:  # no writable place for the cache: compile once a process
            return cast(Function, numba.njit(**options)(function))

    return compile_lazily


def native_worker(function: Callable[[Any], None]) -> Any:
    """Compile ``void(int64*)`` for :func:`entropick_kernels._threads.run`, now, not at the first call."""
    signature = types.void(types.CPointer(types.int64))
    try:
        return numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # as above
        return numba.cfunc(signature)(function)
