"""The identity of a model: a digest of everything that its signals depend on.

Two models share a calibration profile only where their weights, their configuration and their tokenizer are
the same, byte for byte. Digests of large files are kept in the user's cache, so that a start does not read
them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from .base import ModelLoadError
from .user_cache import user_cache

WEIGHTS: Final = "*.safetensors"
CONFIGURATION: Final = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "*.model",
)
"""names of the files, beside the weights, that say what a model computes and how text becomes tokens"""
REMEMBER_FROM: Final = 64 << 20
"""bytes of a file from which on its digest is kept: a smaller file is read faster than it is looked up"""
_ANNOUNCE_FROM: Final = 4 << 30
_log = logging.getLogger(__name__)


def default_digests() -> Path:
    """Returns the user's folder of file digests."""
    return user_cache() / "digests"


def hash_model(folder: Path, digests: Path | None = None, remember_from: int = REMEMBER_FROM) -> str:
    """Computes the SHA-256 digest of a model's weights, ``config.json`` and tokenizer files.

    The digest covers the name and all bytes of each file. ``digests`` is the folder that keeps the digests of
    files with ``remember_from`` bytes or more (default: the user's cache).

    Raises ModelLoadError for a folder without weights in safetensors files, and for a file that cannot be
    read.
    """
    weights = sorted(path for path in folder.glob(WEIGHTS) if path.is_file())
    if not weights:
        raise ModelLoadError(
            f"{folder} cannot be loaded: it holds no weights in safetensors files (no others are read)"
        )
    described = {path for pattern in CONFIGURATION for path in folder.glob(pattern) if path.is_file()}
    memory = digests or default_digests()
    total = hashlib.sha256()
    try:
        if (size := sum(path.stat().st_size for path in weights)) >= _ANNOUNCE_FROM:
            _log.info(
                "reading %.1f GB of weights for the model's identity (kept for the next start)", size / 1e9
            )
        for path in (*sorted(described), *weights):
            total.update(f"{path.name}\0{file_digest(path, memory, remember_from)}\n".encode())
    except OSError as error:
        raise ModelLoadError(f"{folder} cannot be loaded: {error}") from error
    return total.hexdigest()


def file_digest(path: Path, memory: Path, remember_from: int = REMEMBER_FROM) -> str:
    """Returns a file's SHA-256 digest, from ``memory`` where the file has not changed since it was read.

    Raises OSError for a file that cannot be read.
    """
    stamp = _stamp(path)
    if stamp[0] < remember_from:
        return _read(path)
    place = str(path.resolve())
    kept = memory / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["stamp"] == stamp and found["path"] == place:
            return str(found["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing is kept of this file, or nothing that can be read
    digest = _read(path)
    if _stamp(path) == stamp:  # else the file was written while it was read
        _keep(kept, {"path": place, "stamp": stamp, "sha256": digest})
    return digest


def _stamp(path: Path) -> list[int]:
    """Returns the size of a file, its times and its inode.

    The time of the inode's last change (ctime) is among them, because archives and copies set the time of
    modification: two models of one shape can agree in path, size and mtime.
    """
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, content: dict[str, object]) -> None:
    """Writes a digest beside its final name and renames it, so that no reader finds half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(json.dumps(content), encoding="utf-8")
            os.replace(written, path)
    except OSError as error:
        _log.warning(
            "the digest of %s cannot be kept, the next start reads it again: %s", content["path"], error
        )
