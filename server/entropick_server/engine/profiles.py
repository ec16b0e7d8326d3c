"""The calibration profile of a model: its places, its refusal for other layers, its renewed model hash."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Final

from entropick_sampler.profile import PROFILE_FILE, Profile, ProfileError

from .base import ModelLoadError
from .user_cache import user_cache

SHIPPED: Final = Path(__file__).parent.parent / "profiles"
"""the folder of profiles that come with entropick, NAME.toml for a model of the table (``named_models``)"""
_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Returns the user's folder of profiles."""
    return user_cache() / "profiles"


def cached_profile_path(cache: Path, model_hash: str, layers: tuple[int, ...]) -> Path:
    """Returns the place in the user's cache for the profile of a model and a choice of monitored layers."""
    chosen = hashlib.sha256(",".join(map(str, layers)).encode()).hexdigest()[:8]
    return cache / f"{model_hash[:24]}-{chosen}.toml"


def calibrated_path(model: str, cache: Path, model_hash: str, layers: tuple[int, ...]) -> Path:
    """Returns the place of a calibration where serving finds it.

    That is beside the weights of a model in a local folder, and in the user's cache for every other model.
    """
    folder = Path(model).expanduser()
    return folder / PROFILE_FILE if folder.is_dir() else cached_profile_path(cache, model_hash, layers)


def find_profile(
    named: str | None,
    folder: Path,
    cache: Path,
    model_hash: str,
    layers: tuple[int, ...],
    shipped: Path = SHIPPED,
) -> Profile | None:
    """Returns the profile named in the options, or else the first that is there.

    The order is: beside the weights, in the user's cache, shipped with entropick (in the folder ``shipped``).
    A cached profile that cannot be used is passed over with a warning, so that it is made anew. Raises
    ModelLoadError for a named profile, or one beside the weights, that cannot be read or was calibrated on
    other layers.
    """
    path = Path(named) if named is not None else folder / PROFILE_FILE
    if named is None and not path.is_file():
        cached = _cached_profile(cached_profile_path(cache, model_hash, layers), layers)
        return cached or _shipped_profile(shipped, model_hash, layers)
    try:
        profile = Profile.load(path)
    except ProfileError as error:
        raise ModelLoadError(f"profile {path}: {error}") from error
    check_layers(profile, layers, str(path))
    if profile.model_hash != model_hash:
        _log.warning(
            "profile %s was calibrated on another model (weights, configuration or tokenizer differ); its "
            "thresholds may not fit",
            path,
        )
    return profile


def _cached_profile(path: Path, layers: tuple[int, ...]) -> Profile | None:
    try:
        if not path.exists():
            return None
        profile = Profile.load(path)
        check_layers(profile, layers, str(path))
    except (ProfileError, ModelLoadError, OSError) as error:
        _log.warning("the cached profile %s cannot be used and is passed over: %s", path, error)
        return None
    return profile


def _shipped_profile(folder: Path, model_hash: str, layers: tuple[int, ...]) -> Profile | None:
    """Returns the shipped profile of a model; None where there is none for these layers."""
    for path in sorted(folder.glob("*.toml")):
        try:
            profile = Profile.load(path)
        except ProfileError as error:
            _log.warning("the shipped profile %s cannot be used and is passed over: %s", path, error)
            continue
        if profile.model_hash == model_hash and sorted(profile.layers) == sorted(layers):
            return profile
    return None


def keep_profile(profile: Profile, path: Path) -> None:
    """Writes a profile into the user's cache; a warning says where that fails."""
    try:
        profile.save(path)
    except OSError as error:
        _log.warning("the profile cannot be kept as %s, the next start calibrates again: %s", path, error)


def check_layers(profile: Profile, layers: tuple[int, ...], origin: str) -> None:
    """Raises ModelLoadError where a profile's attention signals are means over other layers."""
    if tuple(sorted(profile.layers)) != tuple(sorted(layers)):
        raise ModelLoadError(
            f"profile {origin} was calibrated on layers {list(profile.layers)}, this engine monitors "
            f"{list(layers)}: calibrate again, or monitor the profile's layers"
        )


def restamp(path: Path, model_hash: str) -> bool:
    """Writes another model's identity into a profile's file and leaves every other byte as it is.

    This is for a change of the model's files that its signals do not depend on. Returns False where the
    profile had this identity already. Raises ValueError for a file without exactly one ``model_hash``.
    """
    text = path.read_text(encoding="utf-8")
    stamped, count = re.subn(
        r'^model_hash = "[^"]*"$', f'model_hash = "{model_hash}"', text, flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError(f'{path} has {count} lines model_hash = "...", not one')
    if stamped == text:
        return False
    path.write_text(stamped, encoding="utf-8")
    return True
