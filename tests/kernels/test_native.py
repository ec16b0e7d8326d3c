"""Compiled loops on disk: they are used while the sources are the same, and never after."""

import os
import subprocess
import sys
from pathlib import Path

HELPER = "from entropick_kernels._native import native\n\n\n@native()\ndef number(x):\n    return x + {}\n"
LOOP = """
from pathlib import Path
from entropick_kernels._native import forget_stale, native
forget_stale(Path(__file__).parent)
from .helper import number

@native()
def loop(x):
    return number(x) * 2
"""


def answer(root: Path) -> tuple[int, int]:
    """What the loop says, and how many compiled functions it found on disk."""
    script = "from stale_package.loop import loop; print(loop(1), sum(loop.stats.cache_hits.values()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    value, hits = done.stdout.split()
    return int(value), int(hits)


def test_a_changed_helper_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "stale_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "loop.py").write_text(LOOP)
    (package / "helper.py").write_text(HELPER.format(1))
    assert answer(tmp_path) == (4, 0)
    assert answer(tmp_path) == (4, 1)
    (package / "helper.py").write_text(HELPER.format(20))
    assert answer(tmp_path) == (42, 0)
