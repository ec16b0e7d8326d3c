"""Estimates of a matrix's spectrum figures by stochastic Lanczos quadrature, without an eigendecomposition.

Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017). The
Frobenius norm is exact, the largest singular value converges first; the sum of the singular values and the
shares come from the quadrature's nodes and weights.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from .matrices import ACTIVE, RANK_SHARE, MatrixSpectrum
from .rows import row_chunks

PROBES: Final = 8
STEPS: Final = 60


def spectral_nodes(
    matrix: torch.Tensor, probes: int = PROBES, steps: int = STEPS, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs Lanczos on the smaller Gram matrix from random sign vectors, with full reorthogonalisation.

    Returns the nodes (estimated eigenvalues, s^2) and their weights, each [probes, steps]; a probe's weights
    sum to the number of singular values.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    size = min(matrix.shape)
    steps = min(steps, size)
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randint(0, 2, (size, probes), generator=generator).double() * 2.0 - 1.0
    vector /= math.sqrt(size)
    basis = vector.new_zeros(steps, size, probes)
    diagonal, beside = vector.new_zeros(steps, probes), vector.new_zeros(steps, probes)
    for step in range(steps):
        basis[step] = vector
        given = vector.to(matrix.dtype)
        product = (matrix @ (matrix.T @ given) if wide else matrix.T @ (matrix @ given)).double()
        diagonal[step] = (product * vector).sum(0)
        for _ in range(2):
            seen = torch.einsum("snp,np->sp", basis[: step + 1], product)
            product -= torch.einsum("snp,sp->np", basis[: step + 1], seen)
        beside[step] = product.norm(dim=0)
        # an exhausted Krylov space leaves a vector of zeros, whose nodes get no weight
        vector = product / torch.where(beside[step] > 1e-12 * diagonal[0].abs(), beside[step], torch.inf)
    tridiagonal = torch.diag_embed(diagonal.T)
    if steps > 1:
        off = torch.diag_embed(beside[:-1].T, 1)
        tridiagonal = tridiagonal + off + off.mT
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes.clamp(min=0.0), vectors[:, 0, :] ** 2 * size


def estimated_spectrum(
    matrix: torch.Tensor, probes: int = PROBES, steps: int = STEPS, seed: int = 0
) -> MatrixSpectrum:
    """Estimates the spectrum figures of a matrix [rows, columns]; ``estimated`` is True in the result.

    The stable rank is exact up to the convergence of the largest singular value. Raises ValueError for a
    matrix of zeros.
    """
    nodes, weights = spectral_nodes(matrix, probes, steps, seed)
    s, order = nodes.sqrt().sort(dim=1, descending=True)
    weights = weights.gather(1, order)
    top = float(s.max())
    if top <= 0.0:
        raise ValueError("a matrix of zeros has no spectrum")
    squares = math.fsum(float((part.double() ** 2).sum()) for part in row_chunks(matrix))
    size = min(matrix.shape)
    # a node stands for the values around it: half of its weight lies on either side
    above = weights.cumsum(1) - weights / 2.0
    held = (weights * s).cumsum(1) - weights * s / 2.0
    totals = (weights * s).sum(1)
    active, ranks = [], []
    for probe in range(s.shape[0]):
        active.append(_between(-s[probe].clamp(min=1e-30).log(), above[probe], -math.log(ACTIVE * top)))
        ranks.append(_between(held[probe], above[probe], RANK_SHARE * float(totals[probe])))
    total = _corrected_sum(s * s, weights, squares)
    return MatrixSpectrum(
        stable_rank=squares / (top * top),
        participation_ratio=total * total / squares,
        active_share=min(sum(active) / len(active) / size, 1.0),
        rank90=max(1, min(round(sum(ranks) / len(ranks)), size)),
        condition=None,
        largest=top,
        frobenius=math.sqrt(squares),
        size=size,
        estimated=True,
    )


def _corrected_sum(nodes: torch.Tensor, weights: torch.Tensor, squares: float) -> float:
    """Returns the estimated sum of the singular values, corrected by the error of the sum of their squares.

    Both errors come from how much of the large values the probes happened to hold, and the second is known:
    a control variate whose factor is the regression of s on s^2 over the estimated spectrum.
    """
    s, part = nodes.sqrt(), weights / weights.sum()
    mean_s, mean_square = float((part * s).sum()), float((part * nodes).sum())
    spread = float((part * (nodes - mean_square) ** 2).sum())
    count, probes = float(weights[0].sum()), weights.shape[0]
    estimate, seen = float((weights * s).sum()) / probes, float((weights * nodes).sum()) / probes
    if spread <= 0.0:
        return estimate
    factor = float((part * (s - mean_s) * (nodes - mean_square)).sum()) / spread
    return min(estimate + factor * (squares - seen), math.sqrt(squares * count))


def _between(x: torch.Tensor, y: torch.Tensor, at: float) -> float:
    """Interpolates y at ``at`` for ascending x; beyond the last x, y's last step is counted whole."""
    place = int((x < at).sum())
    if place == 0:
        return float(y[0])
    if place == x.numel():
        return float(y[-1] + (y[-1] - y[-2]) / 2.0) if y.numel() > 1 else float(y[-1])
    low, high = float(x[place - 1]), float(x[place])
    part = (at - low) / (high - low) if high > low else 1.0
    return float(y[place - 1] + (y[place] - y[place - 1]) * part)
