"""Which calibration profile a model is served with. An engine that monitors other layers refuses one."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from entropick_sampler.profile import PROFILE_FILE, Profile, ProfileError

from .base import ModelLoadError

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """The user's folder of profiles."""
    return Path.home() / ".cache" / "entropick" / "profiles"


def cached_profile_path(cache: Path, model_hash: str, layers: tuple[int, ...]) -> Path:
    """Where the profile of a model and a choice of monitored layers is kept in the user's cache."""
    chosen = hashlib.sha256(",".join(map(str, layers)).encode()).hexdigest()[:8]
    return cache / f"{model_hash[:24]}-{chosen}.toml"


def calibrated_path(model: str, cache: Path, model_hash: str, layers: tuple[int, ...]) -> Path:
    """Where a calibration is kept so that serving finds it: beside the weights of a local model, else in the
    user's cache."""
    folder = Path(model).expanduser()
    return folder / PROFILE_FILE if folder.is_dir() else cached_profile_path(cache, model_hash, layers)


def find_profile(
    named: str | None, folder: Path, cache: Path, model_hash: str, layers: tuple[int, ...]
) -> Profile | None:
    """The profile named in the options, else the one beside the weights, else the user's cached one.

    Raises ModelLoadError for a file that cannot be read or was calibrated on other layers.
    """
    beside = folder / PROFILE_FILE
    cached = cached_profile_path(cache, model_hash, layers)
    path = Path(named) if named is not None else beside if beside.is_file() else cached
    if named is None and not path.is_file():
        return None
    try:
        profile = Profile.load(path)
    except ProfileError as error:
        raise ModelLoadError(f"profile {path}: {error}") from error
    check_layers(profile, layers, str(path))
    if profile.model_hash != model_hash:
        _log.warning("profile %s was calibrated on other weights; its thresholds may not fit", path)
    return profile


def check_layers(profile: Profile, layers: tuple[int, ...], origin: str) -> None:
    """Raise ModelLoadError where a profile's attention signals are means over other layers."""
    if tuple(sorted(profile.layers)) != tuple(sorted(layers)):
        raise ModelLoadError(
            f"profile {origin} was calibrated on layers {list(profile.layers)}, this engine monitors "
            f"{list(layers)}: calibrate again, or monitor the profile's layers"
        )
