"""The sampling step on the CPU as one native call that measures, decides, draws and packs. Needs numba.

:func:`entropick_sampler.step.sample_step` is the same in tensor operations, for every device.
The two agree to a few units in the last place; their tokens are equal unless a uniform number or a cut
point lies that near to a boundary.
"""

from .step import NativeStep, warmup

__all__ = ["NativeStep", "warmup"]
