"""Native code gives the same bits in the process that compiles it and in the processes that load it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLEE = """
import numpy as np
from entropick_kernels._native import native

@native("contract", "reassoc", "nsz")
def moments(x, lo, hi, top, weights):
    z = first = second = np.float32(0.0)
    for i in range(hi - lo):
        y = np.float32(x[lo + i] - top)
        weights[i] = np.float32(1) / (np.float32(1) + y * y)
    for i in range(hi - lo):
        y = np.float32(x[lo + i] - top)
        z += weights[i]
        first += weights[i] * y
    mean = first / z
    for i in range(hi - lo):
        d = np.float32(x[lo + i] - top) - mean
        second += weights[i] * d * d
    return z, mean, second
"""
CALLERS = """
import ctypes
import hashlib
import numba
import numpy as np
from entropick_kernels.loops import address, native, native_worker
from .callee import moments

ROWS = np.random.default_rng(0).standard_normal((200, 999)).astype(np.float32)

@native()
def by_chunks(x, out, weights):
    for lo in range(0, x.shape[0], 64):
        z, mean, second = moments(x, lo, min(lo + 64, x.shape[0]), x[0], weights)
        out[0] += z
        out[1] += mean
        out[2] += second

@native()
def two_calls(x, out, weights):
    z, mean, second = moments(x, 0, x.shape[0], x[1], weights)
    out[0], out[1], out[2] = moments(x, 0, x.shape[0] if second > z else 16, mean, weights)

def _worker(data):
    x = numba.carray(address(data[0]), (999,), np.float32)
    out = numba.carray(address(data[1]), (3,), np.float32)
    by_chunks(x, out, np.empty(64, np.float32))

def measure(name):
    '''Returns a digest of the figures of all rows, and how often the code came from disk.'''
    figures, weights = np.zeros((len(ROWS), 3), np.float32), np.empty(999, np.float32)
    if name == "worker":
        worker = native_worker(_worker)
        for x, out in zip(ROWS, figures):
            worker.ctypes((ctypes.c_int64 * 2)(x.ctypes.data, out.ctypes.data))
        hits = worker.cache_hits
    else:
        loop = globals()[name]
        for x, out in zip(ROWS, figures):
            loop(x, out, weights)
        hits = sum(loop.stats.cache_hits.values())
    return hashlib.blake2b(figures.tobytes(), digest_size=8).hexdigest(), hits

def kinds_of_functions():
    '''Returns the linkage of every function in the worker's machine code.'''
    code = native_worker(_worker).inspect_llvm()
    return {line.split()[1] for line in code.splitlines() if line.startswith("define ")}
"""
MEASURE = """
import sys
from summing_package.callers import measure
for name in sys.argv[1:]:
    print(name, *measure(name))
"""
LINKAGE = "from summing_package.callers import kinds_of_functions; print(*kinds_of_functions())"
LOGITS = """
import hashlib
import torch
from entropick_kernels.logits_stats.numba_impl import logits_stats_numba, rows_stats

torch.set_num_threads(1)
x = 4 * torch.randn(400, 3001, generator=torch.Generator().manual_seed(0))
figures = torch.stack(logits_stats_numba(x)[:4])
print(hashlib.blake2b(figures.numpy().tobytes()).hexdigest(), sum(rows_stats.stats.cache_hits.values()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a package whose callers sum through one callee, which may sum in any order."""
    package = tmp_path / "summing_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "callee.py").write_text(CALLEE)
    (package / "callers.py").write_text(CALLERS)
    return tmp_path


def run(folder: Path, script: str, *arguments: str) -> list[str]:
    """Returns the lines that a script prints in a new process, which keeps its native code in the folder."""
    environment = {
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        "NUMBA_CACHE_DIR": str(folder / "kept"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_process_that_compiles_gives_the_bits_of_one_that_loads(folder: Path) -> None:
    compiled = run(folder, MEASURE, "by_chunks", "two_calls", "worker")
    loaded = run(folder, MEASURE, "by_chunks", "two_calls", "worker")
    assert [line.split()[2] for line in compiled] == ["0", "0", "0"]
    assert [line.split()[2] for line in loaded] == ["1", "1", "1"]
    assert [line.split()[:2] for line in compiled] == [line.split()[:2] for line in loaded]
    for line in loaded:  # and alone, where no other caller brought a copy of the callee along
        assert run(folder, MEASURE, line.split()[0]) == [line]


def test_machine_code_shares_no_function_that_it_calls(folder: Path) -> None:
    """Weak copies of callees are what one process would take from another object than the next process."""
    (kinds,) = run(folder, LINKAGE)
    assert "internal" in kinds
    assert "linkonce_odr" not in kinds
    assert "weak" not in kinds


def test_logits_statistics_have_one_kind_of_bits(folder: Path) -> None:
    ((compiled, never),) = (line.split() for line in run(folder, LOGITS))
    ((loaded, once),) = (line.split() for line in run(folder, LOGITS))
    assert (never, once) == ("0", "1")
    assert compiled == loaded
