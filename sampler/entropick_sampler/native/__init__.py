"""The sampling step on the CPU as one native call: each row measured, decided, drawn and packed. Needs numba.

:func:`entropick_sampler.step.sample_step` says in tensor operations, for every device, what is computed here.
The two agree to a few units in the last place, and to the bit in tokens but where a uniform number or a cut
point lies within that of a boundary.
"""

from pathlib import Path

from entropick_kernels.loops import forget_stale

forget_stale(Path(__file__).parents[1])

from .step import NativeStep, warmup  # noqa: E402

__all__ = ["NativeStep", "warmup"]
