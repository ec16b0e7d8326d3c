"""Orthogonal Procrustes alignment of two models' embeddings over the tokens that both have.

R = U V^T of the singular value decomposition of A^T B is the rotation that brings A closest to B
(Schoenemann, 1966). With few anchors a dimension it fits noise: only figures on rows that were
held out count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .correlation import pearson, upper_pairs
from .groups import unit
from .matrices import singular_values

_PAIR_ROWS = 2000
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Rotation:
    """A fitted map from rows a [n, d] to rows b: scale * (a - mean_a) @ rotation + mean_b."""

    rotation: torch.Tensor
    """[d, d], orthogonal."""
    scale: float
    """sum of the singular values / |A|^2, the scale that minimises the residual."""
    singular_sum: float
    """The sum of the singular values of A^T B, which published work prints as the scale."""
    mean_a: torch.Tensor
    mean_b: torch.Tensor

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Maps rows of the first model, [n, d], into the space of the second."""
        turned: torch.Tensor = self.scale * (rows.double() - self.mean_a) @ self.rotation + self.mean_b
        return turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The fit of a rotation, made on anchors, on tokens that were held out."""

    anchors: int
    held_out: int
    width: int
    projected_from: int | None = None
    """The width of the wider model, where it was projected on as many principal axes as the other's width."""
    scale: float
    cosine_anchors: float
    cosine_held_out: float
    cosine_shuffled: float
    """The null: the held-out cosine of a rotation that was fitted on shuffled pairs."""
    residual_held_out: float
    """|mapped - b| / |b - mean of b| over the held-out rows."""
    pair_cosine_r: float | None = None
    """Pearson's r of the cosines of pairs of held-out tokens in one model and in the other."""
    best: tuple[int, ...]
    """The held-out rows with the highest cosines, in descending order."""
    worst: tuple[int, ...]
    residual_spectrum: tuple[float, ...]
    """The singular values of the held-out residual in descending order, divided by |b - mean of b|."""


def fit_rotation(a: torch.Tensor, b: torch.Tensor, centred: bool = True) -> Rotation:
    """Fits the rotation and scale that bring rows ``a`` [n, d] closest to rows ``b`` [n, d], in float64.

    Raises ValueError where the shapes differ or ``a`` is constant.
    """
    if a.shape != b.shape:
        raise ValueError(f"rows {tuple(a.shape)} and {tuple(b.shape)} differ in shape")
    x, y = a.double(), b.double()
    mean_a = x.mean(0) if centred else x.new_zeros(x.shape[1])
    mean_b = y.mean(0) if centred else y.new_zeros(y.shape[1])
    x, y = x - mean_a, y - mean_b
    square = float((x * x).sum())
    if square <= 0.0:
        raise ValueError("the rows to map are all the same")
    left, values, right = torch.linalg.svd(x.T @ y)
    total = float(values.sum())
    return Rotation(left @ right, total / square, total, mean_a, mean_b)


def align(a: torch.Tensor, b: torch.Tensor, anchors: int, seed: int = 0) -> Alignment:
    """Aligns two models' rows of the same n tokens, ``a`` [n, d_a] with ``b`` [n, d_b].

    ``anchors`` of them, drawn at random, are fitted, the rest is held out. Where the widths differ, the
    wider model is projected on its first principal axes, fitted on the anchors. Raises ValueError where fewer
    than ten rows would be held out, or fitted.
    """
    rows = a.shape[0]
    if b.shape[0] != rows or not 10 <= anchors <= rows - 10:
        raise ValueError(
            f"{anchors} anchors of {rows} and {b.shape[0]} rows leave fewer than ten to fit or to check"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator)
    fit, held = order[:anchors], order[anchors:]
    x, y = a.double(), b.double()
    width = min(x.shape[1], y.shape[1])
    widest = max(x.shape[1], y.shape[1])
    x, y = _projected(x, fit, width), _projected(y, fit, width)
    found = fit_rotation(x[fit], y[fit])
    false = fit_rotation(x[fit], y[fit[torch.randperm(anchors, generator=generator)]])
    mapped, target = found.apply(x[held]), y[held] - found.mean_b
    cosines = _cosines(mapped - found.mean_b, target)
    ranked = held[cosines.argsort(descending=True)]
    residual = mapped - y[held]
    size = float(target.norm())
    pairs = upper_pairs(min(_PAIR_ROWS, held.numel()))
    some = held[:_PAIR_ROWS]
    return Alignment(
        anchors=anchors,
        held_out=held.numel(),
        width=width,
        projected_from=widest if widest != width else None,
        scale=found.scale,
        cosine_anchors=float(_cosines(found.apply(x[fit]) - found.mean_b, y[fit] - found.mean_b).mean()),
        cosine_held_out=float(cosines.mean()),
        cosine_shuffled=float(_cosines(false.apply(x[held]) - false.mean_b, target).mean()),
        residual_held_out=float(residual.norm()) / size,
        pair_cosine_r=pearson(_pair_cosines(x[some])[pairs], _pair_cosines(y[some])[pairs]),
        best=tuple(ranked[:_LISTED].tolist()),
        worst=tuple(ranked.flip(0)[:_LISTED].tolist()),
        residual_spectrum=tuple((singular_values(residual) / size).tolist()),
    )


def _projected(rows: torch.Tensor, fit: torch.Tensor, width: int) -> torch.Tensor:
    if rows.shape[1] == width:
        return rows
    centred = rows - rows[fit].mean(0)
    _, axes = torch.linalg.eigh(centred[fit].T @ centred[fit])
    found: torch.Tensor = centred @ axes[:, -width:]
    return found


def _cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (unit(a) * unit(b)).sum(-1)


def _pair_cosines(rows: torch.Tensor) -> torch.Tensor:
    u = unit(rows)
    return u @ u.T
