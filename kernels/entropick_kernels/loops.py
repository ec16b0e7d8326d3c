"""The native functions that other packages join into programs of their own. Needs numba.

:func:`row_stats` measures a row of logits, :func:`row_top` finds its maximum; :func:`row_spread`,
:func:`row_log_temperature` and :func:`row_prefix_depth` measure its shape, for the policies that ask;
:func:`draw_beside` draws from it, :func:`philox_number` makes the draw's uniform numbers. :func:`mask_row`,
:func:`add_row` and :func:`penalise_row`, which :func:`restore_row` undoes, change it. :func:`native` compiles
a function that calls them; :func:`native_worker` one that :func:`run` starts on torch's threads, each of
which takes its next unit of work with :func:`claim`.
"""

from ._native import native, native_worker
from ._rows import row_top
from ._threads import address, claim, run, threads_for, torch_openmp
from .adjust.numba_loops import add_row, mask_row, penalise_row, restore_row
from .logits_shape.numba_impl import row_log_temperature, row_prefix_depth, row_spread
from .logits_stats.numba_impl import row_log_z, row_stats
from .sample.numba_loops import draw_beside, philox_number

__all__ = [
    "add_row",
    "address",
    "claim",
    "draw_beside",
    "mask_row",
    "native",
    "native_worker",
    "penalise_row",
    "philox_number",
    "restore_row",
    "row_log_temperature",
    "row_log_z",
    "row_prefix_depth",
    "row_spread",
    "row_stats",
    "row_top",
    "run",
    "threads_for",
    "torch_openmp",
]
