"""The native code of a machine: whether it lies compiled on disk, and whether this process may use it yet.

Compiling takes most of a minute, once a machine and version. A server need not wait for it: while another
process compiles, :func:`hold` keeps every public function of this package on its torch implementation, and
:func:`release` lets the native loops serve again.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_STAMP: Final = "entropick-native"
_held = False


def usable() -> bool:
    """Returns whether the native loops may serve, where numba is installed."""
    return not _held


def wanted(kernels: str | None) -> bool:
    """Returns whether a caller wants native loops: "numba" demands them, None takes them where usable."""
    return kernels == "numba" or (kernels is None and usable())


def hold() -> None:
    """Keeps the native loops of this process out of use until :func:`release`."""
    global _held
    _held = True


def release() -> None:
    """Lets the native loops of this process serve again."""
    global _held
    _held = False


def missing(package: str) -> bool:
    """Tells whether native code has to be compiled that could be kept on disk.

    ``package``: the package whose programs are built on this one's. False without numba, and where no folder
    takes code: then there is nothing to wait for.
    """
    stamp = _stamp(package)
    return stamp is not None and not stamp.exists()


def note_compiled(package: str) -> None:
    """Notes that all native code of a package and of this one lies on disk, where a folder takes it."""
    stamp = _stamp(package)
    if stamp is None:
        return
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


@contextlib.contextmanager
def compiling(package: str) -> Iterator[None]:
    """Waits until no other process of this machine compiles a package, and keeps others waiting meanwhile."""
    stamp = _stamp(package)
    with contextlib.ExitStack() as stack:
        if stamp is not None:
            with contextlib.suppress(OSError):
                stamp.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(stamp.with_name(f"{_STAMP}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(package: str) -> Path | None:
    """Returns the file whose presence says so, None where there can be none."""
    try:
        from ._native import code_folder, code_identity
    except ImportError:  # numba is not installed
        return None
    folder = code_folder()
    return None if folder is None else folder / f"{_STAMP}-{code_identity(package)}"
