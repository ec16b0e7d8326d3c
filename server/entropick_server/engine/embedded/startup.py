"""From options to a core that has run once, so that no request pays for first uses."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from entropick_kernels import native_code
from entropick_kernels import warmup as warm_kernels
from entropick_sampler.batch import warmup as warm_sampler
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile

from ..base import ModelLoadError
from ..profiles import find_profile
from ..types import EngineOptions, ModelInfo, Request
from .core import EngineCore
from .cpu_threads import default_threads
from .decoders import check_batch_invariant
from .loader import Loaded, load_model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that can be served, as the event loop learns of it."""

    loaded: Loaded
    info: ModelInfo
    profile: Profile | None


def open_core(options: EngineOptions, profile_cache: Path) -> tuple[EngineCore, Opened]:
    """Loads a model with its profile and builds a warm core for it. Raises ModelLoadError."""
    torch.set_num_threads(options.threads or default_threads())
    loaded = load_model(options)
    profile = None
    if options.use_profile:
        source = loaded.source
        profile = find_profile(
            options.profile, source.folder, profile_cache, source.model_hash, source.monitored_layers
        )
    core = build(loaded, options, profile)
    if core.info.max_model_len < loaded.info.max_model_len:
        _log.warning(
            "the KV cache holds %d tokens, so that is max_model_len, not %d; raise kv_cache_bytes",
            core.info.max_model_len,
            loaded.info.max_model_len,
        )
    return core, Opened(loaded, core.info, profile)


def use_native(core: EngineCore) -> None:
    """Loads native code from disk into this process and lets a core serve with it."""
    native_code.release()
    warm_kernels()
    warm_sampler()
    core.use_native()


def build(loaded: Loaded, options: EngineOptions, profile: Profile | None) -> EngineCore:
    """Builds a core and runs a little text through it.

    Raises ModelLoadError where the model does not run, gives no finite logits, or cannot be batch-invariant
    where it is to be.
    """
    check_batch_invariant(loaded.model, options)
    try:
        core = EngineCore(loaded, options, profile)
        _warm_up(core)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{loaded.info.source} was loaded but does not run: {error}") from error
    return core


def _warm_up(core: EngineCore) -> None:
    """Runs a little text through everything."""
    if native_code.usable():
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
