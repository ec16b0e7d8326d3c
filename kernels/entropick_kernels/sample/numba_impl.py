"""The draw and its uniform numbers on the CPU: allocates results and calls the native loops."""

from __future__ import annotations

import functools
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from .._native import native_worker
from .._threads import (
    RECORD,
    address,
    claim,
    record,
    record_type,
    run_shared,
    threads_for,
    torch_openmp,
)
from .numba_loops import draw_rows, philox_uniforms

_WORK_PER_LOGIT: Final = 16
"""multiply-adds that a logit is worth, for the choice of threads"""
_ARGUMENTS: Final = record_type(
    "rows vocabulary columns logits temperature top_k top_p min_p uniforms tokens"
)


def philox_uniform_numba(seed: Tensor, position: Tensor, draw: Tensor, stream: Tensor) -> Tensor:
    """Implements :func:`entropick_kernels.sample.philox_uniform`; int64 tensors on the CPU."""
    words = np.broadcast_arrays(*(t.numpy() for t in (seed, position, draw, stream)))
    s, p, d, b = (np.ascontiguousarray(a).reshape(-1) for a in words)
    out = np.empty(words[0].shape, dtype=np.float64)
    philox_uniforms(s, p, d, b, out.reshape(-1))
    return torch.from_numpy(out)


def _worker(data: Any) -> None:
    """Draws one thread's rows."""
    a = numba.carray(address(data[RECORD]), (1,), _ARGUMENTS)[0]
    rows, columns = a.rows, a.columns
    x = numba.carray(address(a.logits), (rows, a.vocabulary), np.float32)
    temperature = numba.carray(address(a.temperature), (rows,), np.float32)
    top_k = numba.carray(address(a.top_k), (rows,), np.int64)
    top_p = numba.carray(address(a.top_p), (rows,), np.float64)
    min_p = numba.carray(address(a.min_p), (rows,), np.float64)
    uniforms = numba.carray(address(a.uniforms), (rows, columns), np.float64)
    tokens = numba.carray(address(a.tokens), (rows, columns), np.int64)
    b = claim(data, 0)
    while b < rows:
        draw_rows(x, temperature, top_k, top_p, min_p, uniforms, tokens, b, b + 1)
        b = claim(data, 0)


@functools.cache
def _compiled_worker() -> Any:
    """Returns :func:`_worker` as machine code; compiled at the first use, not at import."""
    return native_worker(_worker)


def draw_numba(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniforms: Tensor
) -> Tensor:
    """Implements :func:`entropick_kernels.sample.draw`; tensors on the CPU."""
    wanted = (torch.float32, torch.float32, torch.int64, torch.float64, torch.float64, torch.float64)
    given = (logits, temperature, top_k, top_p, min_p, uniforms)
    x, t, k, mass, floor, u = (
        a.detach().to(d).contiguous().numpy() for a, d in zip(given, wanted, strict=True)
    )
    rows, vocabulary = logits.shape
    tokens = torch.empty(uniforms.shape, dtype=torch.int64)
    threads = min(rows, threads_for(rows * vocabulary * _WORK_PER_LOGIT))
    if threads > 1:
        arguments = record(
            _ARGUMENTS, rows=rows, vocabulary=vocabulary, columns=uniforms.shape[1], logits=x, temperature=t,
            top_k=k, top_p=mass, min_p=floor, uniforms=u, tokens=tokens.numpy(),
        )  # fmt: skip
        run_shared(_compiled_worker(), arguments, threads)
    else:
        draw_rows(x, t, k, mass, floor, u, tokens.numpy(), 0, rows)
    return tokens


def warmup_numba() -> None:
    """Compiles the loops, or loads them from disk."""
    if torch_openmp() is not None:
        _compiled_worker()
    one = torch.ones(1)
    draw_numba(torch.zeros(1, 8), one, one, one, one, torch.zeros(1, 1))
    whole = torch.ones(1, dtype=torch.int64)
    philox_uniform_numba(whole, whole, whole, whole)
