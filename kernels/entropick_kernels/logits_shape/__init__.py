"""The shape of next-token distributions beyond their moments, for the policies that ask for it.

``reference``: the formulas, in float64. ``torch_impl``: any device. ``numba_impl``: native loops for a row on
the CPU, which the native sampling step calls (:mod:`entropick_kernels.loops`).
"""

from .torch_impl import log_temperature, logits_spread, prefix_depth

__all__ = ["log_temperature", "logits_spread", "prefix_depth"]
