"""The native loops of a row, for a caller that joins them into a program of its own. Needs numba.

``row_stats`` measures a row of logits, ``draw_beside`` draws from it, ``philox_number`` is the draw's uniform
number; ``native`` compiles a function that calls them, ``native_worker`` one that :func:`run` starts on
torch's threads, where each thread takes its next unit of work with ``claim``. Their package calls
``forget_stale`` first.
"""

from ._native import forget_stale, native, native_worker
from ._threads import address, claim, run, threads_for, torch_openmp
from .logits_stats.numba_impl import row_log_z, row_stats
from .sample.numba_loops import draw_beside, philox_number

__all__ = [
    "address",
    "claim",
    "draw_beside",
    "forget_stale",
    "native",
    "native_worker",
    "philox_number",
    "row_log_z",
    "row_stats",
    "run",
    "threads_for",
    "torch_openmp",
]
