"""How the native CPU loops are compiled: numba, without the GIL, cached on disk where that is possible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])
_HERE: Final = Path(__file__).parent
_STAMP: Final = "native.sources"


def forget_stale(folder: Path = _HERE) -> None:
    """Delete the compiled loops of a package that were made from other sources than these.

    numba looks at the file of a function alone, not at the files of those that it inlines. Call it before the
    package's first :func:`native`; ``folder``: the package, which may use the loops of this one.
    """
    digest = hashlib.blake2b(digest_size=16)
    for root in dict.fromkeys((_HERE, folder)):
        for source in sorted(root.rglob("*.py")):
            digest.update(str(source.relative_to(root)).encode())
            digest.update(source.read_bytes())
    stamp = folder / "__pycache__" / _STAMP
    try:
        if stamp.is_file() and stamp.read_text() == digest.hexdigest():
            return
        for compiled in folder.rglob("__pycache__/*.nb[ci]"):
            compiled.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest.hexdigest())
    except OSError:
        return  # a place that cannot be written has no compiled loops either


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


forget_stale()
