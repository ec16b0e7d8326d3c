"""The spectrum and the sparsity of one weight matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .rows import row_chunks

ACTIVE: Final = 0.01
"""A singular value is active above this part of the largest."""
RANK_SHARE: Final = 0.9
THRESHOLDS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# half-normal: mean |w| / rms = sqrt(2 / pi)
GAUSSIAN_HOYER: Final = 1.0 - math.sqrt(2.0 / math.pi)
GAUSSIAN_BELOW_TENTH: Final = math.erf(0.1 / math.sqrt(2.0))
_FLOOR: Final = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSpectrum:
    """The figures of a matrix's singular values s."""

    stable_rank: float
    """sum s^2 / s_max^2."""
    participation_ratio: float
    """(sum s)^2 / sum s^2, of the singular values, not of their squares."""
    active_share: float
    """The share of singular values above 1 % of the largest."""
    rank90: int
    """The number of singular values that hold 90 % of their sum."""
    condition: float | None = None
    """s_max / (s_min + 1e-10); None where it is estimated."""
    largest: float
    frobenius: float
    size: int
    """The number of singular values: the smaller side."""
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """The small entries of a matrix, by absolute thresholds and by measures without a scale.

    The absolute shares say how large the entries are, not how sparse: W_Q c and W_K / c are the same model
    with other shares. ``hoyer`` and ``below_tenth_rms`` do not change.
    """

    below: dict[str, float]
    """The share of entries with |w| < t, by t."""
    rms: float
    hoyer: float | None = None
    """(sqrt n - sum|w| / |w|) / (sqrt n - 1): 0 for equal magnitudes, 1 for a single entry, 0.202 for a
    Gaussian."""
    below_tenth_rms: float | None = None
    """The share of entries below a tenth of the root mean square; 0.0797 for a Gaussian."""


def smaller_gram(matrix: torch.Tensor) -> torch.Tensor:
    """Returns W W^T or W^T W, whichever is smaller, in float64."""
    w = matrix.double()
    gram: torch.Tensor = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return gram


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Computes the singular values in descending order, from the smaller Gram matrix in float64.

    Values below about 1e-8 of the largest are lost in rounding.
    """
    found: torch.Tensor = torch.linalg.eigvalsh(smaller_gram(matrix)).clamp(min=0.0).sqrt().flip(0)
    return found


def spectrum_of(values: torch.Tensor) -> MatrixSpectrum:
    """Describes singular values, in descending order. Raises ValueError where all are 0."""
    s = values.double()
    top, squares, total = float(s[0]), float((s * s).sum()), float(s.sum())
    if top <= 0.0:
        raise ValueError("a matrix of zeros has no spectrum")
    return MatrixSpectrum(
        stable_rank=squares / (top * top),
        participation_ratio=total * total / squares,
        active_share=float((s > ACTIVE * top).double().mean()),
        rank90=min(int((s.cumsum(0) < RANK_SHARE * total).sum()) + 1, s.numel()),
        condition=top / (float(s[-1]) + _FLOOR),
        largest=top,
        frobenius=math.sqrt(squares),
        size=s.numel(),
    )


def matrix_spectrum(matrix: torch.Tensor) -> MatrixSpectrum:
    """Computes the exact spectrum figures of a matrix. Raises ValueError for a matrix of zeros."""
    return spectrum_of(singular_values(matrix))


def sparsity(matrix: torch.Tensor) -> Sparsity:
    """Counts the small entries of a matrix as it is stored, row chunk by row chunk."""
    counts = dict.fromkeys(THRESHOLDS, 0)
    total = square = 0.0
    for chunk in row_chunks(matrix):
        size = chunk.abs().double()
        for threshold in THRESHOLDS:
            counts[threshold] += int((size < threshold).sum())
        total += float(size.sum())
        square += float((size * size).sum())
    n = matrix.numel()
    rms = math.sqrt(square / n)
    low = sum(int((chunk.abs().double() < 0.1 * rms).sum()) for chunk in row_chunks(matrix))
    root = math.sqrt(n)
    known = rms > 0.0 and n > 1
    return Sparsity(
        below={f"{threshold:g}": counts[threshold] / n for threshold in THRESHOLDS},
        rms=rms,
        hoyer=(root - total / math.sqrt(square)) / (root - 1.0) if known else None,
        below_tenth_rms=low / n if known else None,
    )
