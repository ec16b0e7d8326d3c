"""The user's cache: where it lies, and folders in it that are made whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .base import ModelLoadError

_ANOTHER: Final = "XDG_CACHE_HOME names another folder for entropick's cache."


def user_cache() -> Path:
    """Returns entropick's folder in the user's cache: under XDG_CACHE_HOME, else under ``~/.cache``.

    As the XDG base directory specification asks, a value that is no absolute path counts as none. A user
    without a home has a folder of their own among the temporary files. Raises ModelLoadError where another
    user could write into that.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "entropick"
    try:
        return Path.home() / ".cache" / "entropick"
    except RuntimeError:  # neither HOME nor an entry of the user's
        return _own_temporary()


def _own_temporary() -> Path:
    """Returns a folder among the temporary files into which this user alone can write."""
    place = Path(tempfile.gettempdir()) / f"entropick-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        about = place.lstat()
    except OSError as error:
        raise ModelLoadError(
            f"this user has no home, and {place} cannot be made: {error}. {_ANOTHER}"
        ) from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise ModelLoadError(f"this user has no home, and {place} is open to others. {_ANOTHER}")
    return place


def make_folder(place: Path, make: Callable[[Path], None]) -> Path:
    """Returns the folder ``place``, after ``make`` has filled it where it was not there.

    ``make`` gets an empty folder beside ``place``, which is renamed when it returns: whoever is interrupted
    leaves nothing under the final name. Among several processes one makes the folder while the others wait
    for it, and what an interrupted process has left is removed.

    Raises ModelLoadError where the cache cannot be written, and whatever ``make`` raises.
    """
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with (place.parent / f".{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
            if not place.is_dir():
                _make(place, make)
    except OSError as error:
        raise ModelLoadError(f"{place} cannot be made: {error}. {_ANOTHER}") from error
    return place


def _make(place: Path, make: Callable[[Path], None]) -> None:
    for left in place.parent.glob(f".{place.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{place.name}.part-", dir=place.parent))
    try:
        make(part)
        os.replace(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Raises ModelLoadError where the disk of an existing folder has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelLoadError(
            f"{purpose} needs {needed / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free. "
            f"{_ANOTHER}"
        )
