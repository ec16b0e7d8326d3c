"""The draw: from logits and counter-based uniform numbers to token ids.

``reference``: the float64 form. ``torch_impl``: any device. ``numba_impl`` and ``numba_loops``: the CPU.
``triton_impl``: a GPU's rows of a short top_k, and what is launched; ``any_row``: its other rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._triton import chosen
from ..native_code import wanted
from .torch_impl import draw_torch, philox_uniform_torch

try:
    from . import numba_impl as _loops
except ImportError:  # numba is not installed: torch serves everything
    _loops = None  # type: ignore[assignment]

__all__ = ["Implementation", "draw", "philox_uniform", "warmup"]

Kernels = Literal["torch", "numba", "triton"]


def _native(tensors: tuple[Tensor, ...], kernels: Kernels | None) -> bool:
    """Returns whether the native loops are to run. Raises ValueError where they are demanded and cannot."""
    possible = _loops is not None and all(t.device.type == "cpu" for t in tensors)
    if kernels == "numba" and not possible:
        raise ValueError("the native loops need numba and tensors on the CPU")
    return possible and wanted(kernels)


def philox_uniform(
    seed: Tensor,
    position: Tensor,
    draw: Tensor,
    stream: Tensor,
    *,
    kernels: Kernels | None = None,
) -> Tensor:
    """Computes a uniform number in [0, 1) for each (seed, position, draw, stream): int64, broadcast; float64.

    Philox-4x32-10 with key = (low, high 32 bits of seed) and counter = (position, draw, stream, 0), each
    modulo 2^32; with x the output words the number is (x0 * 2^21 + floor(x1 / 2^11)) * 2^-53. Counter-based:
    the number does not depend on what else is drawn. ``kernels`` as for :func:`draw`; all give the
    same bits.
    """
    triton = chosen(__name__, kernels, seed, position, draw, stream)
    if triton is not None:
        uniforms: Tensor = triton.philox_uniform_triton(seed, position, draw, stream)
        return uniforms
    if _native((seed, position, draw, stream), kernels):
        return _loops.philox_uniform_numba(seed, position, draw, stream)
    return philox_uniform_torch(seed, position, draw, stream)


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
    *,
    max_top_k: int | None = None,
    kernels: Kernels | None = None,
) -> Tensor:
    """Draws token ids int64 [B, N]: softmax(logits / T), top-k, top-p, min-p, inverse CDF in order of id.

    ``logits`` [B, V] are masked and penalised already; ``temperature``, ``top_p``, ``min_p`` float [B] and
    ``top_k`` int [B] belong to rows; ``uniforms`` float64 [B, N] in [0, 1). Filters as in
    ``reference.filter_probabilities_reference``; off: top_k <= 0, top_p >= 1, min_p <= 0. Temperature 0 gives
    the most probable token, lowest id on ties, in every column, and so does a row that holds a NaN or a +inf
    or nothing but -inf. A row's tokens do not depend on its neighbours.

    ``max_top_k`` says on the host what the tensors hold and never changes the outcome: 1..64 promises
    0 < top_k <= max_top_k in every row (no full sort), 0 that no row uses top_k or top_p (no sort at all),
    None promises nothing.

    ``kernels``: "numba" (native loops, on the CPU), "triton" (on a GPU), "torch" (anything), or None
    for the fastest that serves the tensors (float64 logits on a GPU: torch). Their weights differ in the last
    bits, so their tokens may where a uniform number lies within 1e-7 of a boundary. Raises ValueError on
    shapes that do not fit, and where the implementation cannot serve the tensors.
    """
    rows = logits.shape[:1]
    if logits.dim() != 2 or logits.shape[1] < 1 or uniforms.dim() != 2 or uniforms.shape[:1] != rows:
        raise ValueError(
            f"expected logits [B, V] and uniforms [B, N], got {tuple(logits.shape)}, {tuple(uniforms.shape)}"
        )
    for name, value in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p), ("min_p", min_p)):
        if value.shape != rows:
            raise ValueError(f"{name} must have shape [{rows[0]}], got {tuple(value.shape)}")
    tensors = (logits, temperature, top_k, top_p, min_p, uniforms)
    wide = kernels is None and logits.dtype == torch.float64
    triton = None if wide else chosen(__name__, kernels, *tensors)
    if triton is not None:
        tokens: Tensor = triton.draw_triton(*tensors, max_top_k=max_top_k)
        return tokens
    if _native(tensors, kernels):
        return _loops.draw_numba(*tensors)
    return draw_torch(*tensors, max_top_k=max_top_k)


def warmup() -> None:
    """Compiles the native loops now, or loads them from disk, so that no request waits."""
    if _loops is not None:
        _loops.warmup_numba()
