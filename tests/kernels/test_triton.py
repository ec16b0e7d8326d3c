"""The Triton kernels on a machine without a GPU: their numbers in the interpreter, their code compiled.

Triton decides at import whether it interprets, so both run in processes of their own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":  # where `.[dev]` brings Triton its absence is a failure
    pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
INTERPRETED = sorted((Path(__file__).parent / "triton").glob("test_*.py"))
SOURCES = [*ROOT.glob("kernels/**/*.py"), *ROOT.glob("sampler/**/*.py"), *ROOT.glob("server/**/*.py")]
REGISTER_CAPS = {
    "_mask_rows": 40,
    "_add_entries": 24,
    "_penalise_entries": 40,
    "_restore_entries": 24,
    "_chunk_moments": 96,
    "_merge": 64,
    "attend": 224,
    "merge": 64,
    "sum_heads": 64,
    "deviate": 64,
    "total": 32,
    "_philox": 64,
    "_block_maxima": 40,
    "_draw_short": 128,
    "draw_any": 128,
}
"""a little above what the compiler gives; more means fewer programs at a time, so it is to be noticed"""
KEYS_ALONE_CAP = 128
"""of ``attend`` without values: four programs of 128 threads at a time, as with 104"""
STREAMING = {"_chunk_moments", "attend", "_block_maxima"}
"""the kernels that read the logits or the keys and values: 128 bits at a time, or bandwidth is lost"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=given, capture_output=True, text=True, timeout=900
    )


@pytest.mark.parametrize("path", INTERPRETED, ids=lambda path: path.stem)
def test_numbers_in_the_interpreter(path: Path, show: list[str]) -> None:
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path), TRITON_INTERPRET="1", OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    closing = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"[1-9]\d* passed in .*", closing), closing
    show.append(f"interpreter, {path.name}: {closing}")


def test_compiled_code(show: list[str], tmp_path: Path) -> None:
    done = run("benchmarks/compile_kernels.py", "--json", str(tmp_path / "rows"))
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads((tmp_path / "rows").read_text())
    assert {row["target"] for row in rows} == {"sm_80", "sm_90"}
    show.extend(done.stdout.splitlines())
    assert not [row for row in rows if row["stack"] or row["local"]], "a kernel spills"
    assert {row["kernel"] for row in rows} == set(REGISTER_CAPS)
    assert not [row for row in rows if row["registers"] > REGISTER_CAPS[row["kernel"]]]
    assert not [row for row in rows if row["kernel"] in STREAMING and "128" not in row["loads"]]
    keys_alone = [row for row in rows if row["kernel"] == "attend" and row["case"].startswith("keys alone")]
    assert len(keys_alone) >= 6
    assert not [row for row in keys_alone if row["registers"] > KEYS_ALONE_CAP]


def test_triton_is_imported_by_its_own_modules_alone() -> None:
    importers = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "triton" for name in names):
                importers.add(path.name)
    assert importers == {"triton_impl.py", "triton_kernels.py"}
