"""The draw and its uniform numbers on the CPU: the native loops behind the public functions."""

from __future__ import annotations

import functools
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from .._native import native_worker
from .._threads import address, claim, run, threads_for, torch_openmp
from .numba_loops import draw_rows, philox_uniforms

_WORK_PER_LOGIT: Final = 16


def philox_uniform_numba(seed: Tensor, position: Tensor, draw: Tensor, branch: Tensor) -> Tensor:
    """See :func:`entropick_kernels.sample.philox_uniform`; int64 tensors on the CPU."""
    words = np.broadcast_arrays(*(t.numpy() for t in (seed, position, draw, branch)))
    s, p, d, b = (np.ascontiguousarray(a).reshape(-1) for a in words)
    out = np.empty(words[0].shape, dtype=np.float64)
    philox_uniforms(s, p, d, b, out.reshape(-1))
    return torch.from_numpy(out)


def _worker(data: Any) -> None:
    """One thread's rows; ``data`` = (next row, B, V, N, addresses)."""
    rows, columns = data[1], data[3]
    x = numba.carray(address(data[4]), (rows, data[2]), np.float32)
    temperature = numba.carray(address(data[5]), (rows,), np.float32)
    top_k = numba.carray(address(data[6]), (rows,), np.int64)
    top_p = numba.carray(address(data[7]), (rows,), np.float64)
    min_p = numba.carray(address(data[8]), (rows,), np.float64)
    uniforms = numba.carray(address(data[9]), (rows, columns), np.float64)
    tokens = numba.carray(address(data[10]), (rows, columns), np.int64)
    b = claim(data, 0)
    while b < rows:
        draw_rows(x, temperature, top_k, top_p, min_p, uniforms, tokens, b, b + 1)
        b = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    return native_worker(_worker)


def draw_numba(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniforms: Tensor
) -> Tensor:
    """See :func:`entropick_kernels.sample.draw`; tensors on the CPU."""
    wanted = (torch.float32, torch.float32, torch.int64, torch.float64, torch.float64, torch.float64)
    given = (logits, temperature, top_k, top_p, min_p, uniforms)
    x, t, k, mass, floor, u = (
        a.detach().to(d).contiguous().numpy() for a, d in zip(given, wanted, strict=True)
    )
    rows, vocabulary = x.shape
    tokens = torch.empty(uniforms.shape, dtype=torch.int64)
    threads = min(rows, threads_for(rows * vocabulary * _WORK_PER_LOGIT))
    if threads > 1:
        addresses = (a.ctypes.data for a in (x, t, k, mass, floor, u, tokens.numpy()))
        data = np.array([0, rows, vocabulary, uniforms.shape[1], *addresses], dtype=np.int64)
        run(_compiled_worker(), data, threads)
    else:
        draw_rows(x, t, k, mass, floor, u, tokens.numpy(), 0, rows)
    return tokens


def warmup_numba() -> None:
    """Compile the loops (or load them from numba's cache)."""
    if torch_openmp() is not None:
        _compiled_worker()
    one = torch.ones(1)
    draw_numba(torch.zeros(1, 8), one, one, one, one, torch.zeros(1, 1))
    whole = torch.ones(1, dtype=torch.int64)
    philox_uniform_numba(whole, whole, whole, whole)
