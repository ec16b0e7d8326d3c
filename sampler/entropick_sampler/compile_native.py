"""Compiles all native code of the sampler and the kernels and keeps it on disk, once a machine and version.

    python -m entropick_sampler.compile_native

Processes that need the same code at once wait for each other, and the later ones load it. ``entropick serve``
runs this beside itself (:mod:`entropick_server.engine.embedded.compiling`), ``make test`` before the tests.
"""

from __future__ import annotations

from typing import Final

from entropick_kernels import decoder, native_code
from entropick_kernels import warmup as warm_kernels

from .batch import warmup as warm_sampler

PACKAGE: Final = "entropick_sampler"
"""the package whose programs are built on the kernels"""


def missing() -> bool:
    """Tells whether :func:`compile_native` has to run before native code can be loaded from disk."""
    return native_code.missing(PACKAGE)


def compile_native() -> None:
    """Compiles all native code, or loads the code that another process compiled meanwhile."""
    with native_code.compiling(PACKAGE):
        warm_kernels()
        warm_sampler()
        decoder.warmup_forms()
        native_code.note_compiled(PACKAGE)


if __name__ == "__main__":
    compile_native()
