"""A core that has run once, so that no request pays for first uses."""

from __future__ import annotations

import time

from entropick_kernels import warmup as warm_kernels
from entropick_sampler.batch import warmup as warm_sampler
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile

from ..base import ModelLoadError
from ..types import EngineOptions, Request
from .core import EngineCore
from .decoders import check_batch_invariant
from .loader import Loaded


def build(loaded: Loaded, options: EngineOptions, profile: Profile | None) -> EngineCore:
    """A warm core.

    Raises ModelLoadError where the model does not run, gives no finite logits, or cannot be batch-invariant
    where it is to be.
    """
    if options.batch_invariant:
        check_batch_invariant(loaded.model, options)
    try:
        core = EngineCore(loaded, options, profile)
        _warm_up(core)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{loaded.info.source} was loaded but does not run: {error}") from error
    return core


def _warm_up(core: EngineCore) -> None:
    """Run a little text through everything."""
    warm_kernels()
    warm_sampler()
    request = Request(
        "warm-up",
        (0,) * min(4, core.info.max_model_len - 1),
        SamplingParams(temperature=1.0, max_tokens=3),
        PolicyConfig(policy="entropix" if core.measures else "fixed", preset="seed"),
        time.monotonic(),
    )
    core.add(request)
    while not core.idle:
        for output in core.step().outputs:
            if output.error is not None:
                raise ModelLoadError(output.error)
