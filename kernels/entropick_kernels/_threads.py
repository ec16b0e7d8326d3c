"""Native loops on torch's own threads, and the records that carry their arguments.

numba brings its thread pools along: with OpenMP a second runtime (it asks for another file name than torch),
whose idle threads spin against torch's, or a pool that aborts the process when two Python threads enter it.
So a loop that is worth several threads is handed to the OpenMP runtime that torch has loaded; the threads
that run torch's operations run it, and there is nothing to fight over. Where that runtime is not GNU's, or
cannot be found, loops stay on one thread.

A worker gets the address of a few int64 cells: counters of the units of work that were claimed, then the
address of a record, whose fields are its arguments.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORTH_A_THREAD: Final = 1 << 20
"""multiply-adds (about 0.2 ms) below which waking another thread costs more than it saves"""

RECORD: Final = 1
"""the cell that holds the record's address, where :func:`run_shared` starts the worker"""


@functools.cache
def torch_openmp() -> ctypes.CDLL | None:
    """Returns the GNU OpenMP runtime that torch's threads belong to, None where there is none."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    mapped = {Path(line.split()[-1]) for line in maps.read_text().splitlines() if "libgomp" in line}
    own = {path for path in mapped if Path(torch.__file__).parent in path.parents}
    candidates = own or mapped
    if len(candidates) != 1:
        return None
    library = ctypes.CDLL(str(candidates.pop()))
    library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    # torch's thread count is its runtime's: another answer means another runtime
    return library if library.omp_get_max_threads() == torch.get_num_threads() else None


def threads_for(multiply_adds: int) -> int:
    """Returns how many threads a loop of this size should run on: 1 or torch's intra-op count."""
    if multiply_adds < _WORTH_A_THREAD or torch.get_num_threads() == 1 or torch_openmp() is None:
        return 1
    return torch.get_num_threads()


def run(worker: Any, data: npt.NDArray[np.int64], threads: int) -> None:
    """Runs a compiled ``void(int64*)`` once on each of ``threads`` threads, all with the same ``data``."""
    library = torch_openmp()
    if library is None:
        raise RuntimeError("torch's OpenMP runtime was not found")
    library.GOMP_parallel(worker.address, data.ctypes.data, threads, 0)


def record_type(integers: str, floats: str = "") -> np.dtype[Any]:
    """Returns the type of a record of int64 fields, then float64 fields, whose names blanks separate.

    A field may hold the address of an array. The caller must keep that array alive while the record is used.
    """
    fields = [(name, np.int64) for name in integers.split()] + [(name, np.float64) for name in floats.split()]
    return np.dtype(fields)


def record(kind: np.dtype[Any], **fields: Any) -> npt.NDArray[Any]:
    """Returns an array of one record with these fields; a field that is not given is 0.

    An array as a value stands for the address of its memory.
    """
    made = np.zeros(1, dtype=kind)
    for name, value in fields.items():
        made[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
    return made


def run_shared(worker: Any, arguments: npt.NDArray[Any], threads: int) -> None:
    """Runs a worker on ``threads`` threads, which share out its units of work by cell 0.

    ``arguments`` is what :func:`record` returned; its address is in cell ``RECORD``.
    """
    run(worker, np.array([0, arguments.ctypes.data], dtype=np.int64), threads)


@intrinsic  # type: ignore[untyped-decorator]
def claim(typing: Any, data: Any, index: Any) -> Any:
    """Adds 1 to data[index], atomically, and returns the value before: the thread's next unit of work."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", cell, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(data, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def address(typing: Any, value: Any) -> Any:
    """Returns an integer as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate
