"""The variation of the volumes of random simplices of rows, beside three nulls that explain it.

A simplex of five rows has the volume prod |R_ii| / 4! of the QR decomposition of its edges. Published work
calls the coefficient of variation of that volume a constant of trained embeddings. It follows from two
plain figures: CV^2 is about 0.4 / PR + 3.2 c^2, PR the participation ratio and c the variation of the
centred norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from .correlation import pearson
from .rows import row_chunks

VERTICES: Final = 5
_AT_ONCE: Final = 256
_RESAMPLES: Final = 1000
_FLAT: Final = 1e-9
"""of the mean volume: what rounding leaves of a simplex without volume"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplexVariation:
    """The coefficient of variation (population deviation / mean) of simplex volumes, and its nulls."""

    variation: float | None = None
    interval: tuple[float, float] | None = None
    """The 95 % percentile interval of a bootstrap over the simplices."""
    simplices: int
    mean_volume: float
    zero_volumes: int
    gaussian: float | None = None
    """Of Gaussian rows of independent entries with the same width; about sqrt(2 / d)."""
    same_covariance: float | None = None
    """Of Gaussian rows with the covariance of the embedding."""
    own_norms: float | None = None
    """Of random directions with the embedding's centred norms."""
    predicted: float | None = None
    """sqrt(0.4 / PR + 3.2 c^2)."""
    norm_variation: float | None = None
    """The variation c of the norms of the rows, each less the mean row."""


def volumes(points: torch.Tensor) -> torch.Tensor:
    """Computes the volumes of simplices ``points`` [.., k + 1, d], in float64, as [..].

    prod |R_ii| / k! of the QR decomposition of the k edges from the first vertex. A degenerate simplex has
    the volume 0, and is kept.
    """
    edges = (points[..., 1:, :] - points[..., :1, :]).double()
    count, width = edges.shape[-2], edges.shape[-1]
    if width < count:
        return edges.new_zeros(edges.shape[:-2])
    _, upper = torch.linalg.qr(edges.mT, mode="r")
    found: torch.Tensor = upper.diagonal(dim1=-2, dim2=-1).abs().prod(-1) / math.factorial(count)
    return found


def variation(values: torch.Tensor) -> float | None:
    """Returns the population deviation divided by the mean, or None where the mean is 0."""
    mean = float(values.mean()) if values.numel() else 0.0
    return float(values.std(correction=0)) / mean if mean > 0.0 else None


def draw_simplices(rows: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draws ``count`` sets of five distinct rows, [count, 5]; disjoint sets as long as the rows last.

    Raises ValueError for fewer than five rows.
    """
    each = rows // VERTICES
    if each == 0:
        raise ValueError(f"a simplex needs {VERTICES} rows; there are {rows}")
    parts = [
        torch.randperm(rows, generator=generator)[: each * VERTICES].view(each, VERTICES)
        for _ in range(-(-count // each))
    ]
    return torch.cat(parts)[:count]


def simplex_variation(
    rows: torch.Tensor, mean: torch.Tensor, eigenvalues: Sequence[float], count: int = 1000, seed: int = 0
) -> SimplexVariation:
    """Measures the variation of simplex volumes over a random sample of rows, beside its nulls.

    ``rows`` [n, d] is a random sample of the embedding's rows, 5 ``count`` of them for disjoint simplices;
    ``mean`` [d] its mean row, ``eigenvalues`` [d] of its covariance.
    """
    generator = torch.Generator().manual_seed(seed)
    width = rows.shape[1]
    sets = draw_simplices(rows.shape[0], count, generator)
    found = torch.cat([volumes(rows[part]) for part in row_chunks(sets, _AT_ONCE)])
    lengths = (rows.double() - mean).norm(dim=-1)
    values = torch.tensor(tuple(eigenvalues), dtype=torch.float64)
    spread = values.clamp(min=0.0).sqrt()
    gaussian, shaped, turned = [], [], []
    for part in row_chunks(sets, _AT_ONCE):
        noise = torch.randn(part.shape[0], VERTICES, width, generator=generator, dtype=torch.float64)
        gaussian.append(volumes(noise))
        shaped.append(volumes(noise * spread))
        turned.append(volumes(noise / noise.norm(dim=-1, keepdim=True) * lengths[part].unsqueeze(-1)))
    c = variation(lengths)
    squares = float((values * values).sum())
    inverse_ratio = squares / float(values.sum()) ** 2 if squares > 0.0 else None
    return SimplexVariation(
        variation=variation(found),
        interval=_interval(found, generator),
        simplices=count,
        mean_volume=float(found.mean()),
        zero_volumes=int((found == 0.0).sum()),
        gaussian=variation(torch.cat(gaussian)),
        same_covariance=variation(torch.cat(shaped)),
        own_norms=variation(torch.cat(turned)),
        predicted=None
        if c is None or inverse_ratio is None
        else math.sqrt(0.4 * inverse_ratio + 3.2 * c * c),
        norm_variation=c,
    )


def _interval(values: torch.Tensor, generator: torch.Generator) -> tuple[float, float] | None:
    """Returns the 2.5 % and 97.5 % quantiles of the variation of resampled volumes."""
    count = values.numel()
    picked = values[torch.randint(count, (_RESAMPLES, count), generator=generator)]
    means = picked.mean(1)
    if bool((means <= 0.0).any()):
        return None
    found = (picked.std(1, correction=0) / means).sort().values
    return float(found[int(0.025 * _RESAMPLES)]), float(found[int(0.975 * _RESAMPLES) - 1])


def paired_volumes(
    a: torch.Tensor, b: torch.Tensor, count: int = 1000, seed: int = 0
) -> tuple[float | None, int, int]:
    """Correlates the log volumes of the same simplices of tokens in two models.

    ``a`` [n, d_a] and ``b`` [n, d_b] are rows of the same tokens. A simplex without volume in one model is
    dropped in both, so that pairs stay pairs. Returns Pearson's r, the pairs that count, and the dropped.
    """
    sets = draw_simplices(a.shape[0], count, torch.Generator().manual_seed(seed))
    first = torch.cat([volumes(a[part]) for part in row_chunks(sets, _AT_ONCE)])
    second = torch.cat([volumes(b[part]) for part in row_chunks(sets, _AT_ONCE)])
    kept = (first > _FLAT * first.mean()) & (second > _FLAT * second.mean())
    return pearson(first[kept].log(), second[kept].log()), int(kept.sum()), int((~kept).sum())
