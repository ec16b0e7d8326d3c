"""The start of either engine: it opens a model, and calibrates it where it has no profile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from entropick_sampler.profile import Profile

from .base import Calibrator, Engine
from .profiles import cached_profile_path, check_layers, keep_profile


async def start_with_profile(
    engine: Engine,
    open_model: Callable[[], Awaitable[Profile | None]],
    use_profile: Callable[[Profile], Awaitable[None]],
    calibrator: Calibrator | None,
    cache: Path,
) -> Profile | None:
    """Starts an engine and calibrates its model where it has no profile.

    ``open_model`` loads the model until requests can run and returns its profile. Without one ``calibrator``
    measures the model through the engine; the new profile is kept in ``cache`` and ``use_profile`` puts it
    into force. ``calibrator`` None leaves the model without a profile.

    Returns the profile in force. Whatever is raised on the way, a cancellation too, closes the engine first.
    Raises ModelLoadError.
    """
    try:
        profile = await open_model()
        if profile is None and calibrator is not None:
            profile = await calibrator(engine)
            layers = engine.info.monitored_layers
            check_layers(profile, layers, "from calibration")
            keep_profile(profile, cached_profile_path(cache, engine.model_hash, layers))
            await use_profile(profile)
    except BaseException:
        await engine.close()
        raise
    return profile
