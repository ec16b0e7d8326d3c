"""Compiled loops on disk: they are used while the sources are the same, and never after."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HELPER = "from entropick_kernels._native import native\n\n\n@native()\ndef number(x):\n    return x + {}\n"
LOOP = """
import ctypes
from entropick_kernels._native import native, native_worker
from .helper import number

@native()
def loop(x):
    return number(x) * 2

def _worker(data):
    data[0] = number(data[0])

def run():
    worker, cell = native_worker(_worker), (ctypes.c_int64 * 1)(1)
    worker.ctypes(cell)
    return cell[0], worker.cache_hits
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""
SCRIPT = """
from stale_package.loop import loop, run
print(loop(1), sum(loop.stats.cache_hits.values()), *run())
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose native functions call one of another file."""
    made = tmp_path / "sources" / "stale_package"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text("")
    (made / "loop.py").write_text(LOOP)
    (made / "helper.py").write_text(HELPER.format(1))
    return made


def answer(package: Path, room: int | None = None, **environment: str) -> tuple[list[int], str]:
    """(what the loop says, its hits on disk, what the worker says, its hits), and what went to stderr.

    ``room``: bytes that a file may have, further writing fails as on a full disk; None: any number.
    """
    paths = os.pathsep.join([str(package.parent), *sys.path])
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT if room is None else FULL.format(room) + SCRIPT],
        capture_output=True,
        text=True,
        env=inherited | {"PYTHONPATH": paths} | environment,
        check=True,
    )
    return [int(word) for word in done.stdout.split()], done.stderr


def beside_the_sources(package: Path) -> dict[str, str]:
    """Where numba keeps things by default."""
    return {}


def in_a_given_folder(package: Path) -> dict[str, str]:
    """Where NUMBA_CACHE_DIR says."""
    return {"NUMBA_CACHE_DIR": str(package.parent.parent / "given")}


def in_the_users_home(package: Path) -> dict[str, str]:
    """Where numba falls back to when it may not write beside the sources, as a server of another user."""
    (package / "__pycache__").write_text("a file, so that not even root can make the folder")
    return {"XDG_CACHE_HOME": str(package.parent.parent / "home")}


@pytest.mark.parametrize("where", [beside_the_sources, in_a_given_folder, in_the_users_home])
def test_a_changed_helper_is_noticed(package: Path, where: Callable[[Path], dict[str, str]]) -> None:
    """Wherever numba keeps compiled functions, and with no call by the package that has them."""
    environment = where(package)
    assert answer(package, **environment) == ([4, 0, 2, 0], "")
    assert answer(package, **environment) == ([4, 1, 2, 1], "")
    (package / "helper.py").write_text(HELPER.format(20))
    assert answer(package, **environment) == ([42, 0, 21, 0], "")
    assert answer(package, **environment) == ([42, 1, 21, 1], "")


def test_a_change_that_keeps_size_and_time_is_noticed(package: Path) -> None:
    """As an installation from a wheel may, whose files all have one time."""
    assert answer(package)[0] == [4, 0, 2, 0]
    helper = package / "helper.py"
    before = helper.stat()
    helper.write_text(HELPER.format(2))
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert answer(package)[0] == [6, 0, 3, 0]


def test_an_unwritable_home_is_told_once(package: Path) -> None:
    """Nothing can be kept: the functions work, and one warning names the variable to set."""
    nowhere = package.parent.parent / "a_file"
    nowhere.write_text("")
    (package / "__pycache__").write_text("")
    (found, said) = answer(package, XDG_CACHE_HOME=str(nowhere), NUMBA_CACHE_DIR=str(nowhere))
    assert found == [4, 0, 2, 0]
    assert said.count("NUMBA_CACHE_DIR") == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("room", [0, 600])
def test_on_a_full_disk_the_functions_work(package: Path, room: int) -> None:
    """Nothing is kept, or a part that is no harm to the next start, and one warning tells it."""
    found, said = answer(package, room)
    assert found == [4, 0, 2, 0]
    assert said.count("its folder cannot be used (") == 1
    assert len(said.splitlines()) == 1
    assert answer(package) == ([4, 0, 2, 0], "")
    assert answer(package) == ([4, 1, 2, 1], "")
