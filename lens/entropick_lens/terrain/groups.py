"""Figures of named tokens: the ten digits, categories of words, special tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from .correlation import pearson, upper_pairs

FEWEST_WORDS: Final = 3
DRAWS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitManifold:
    """The relation of the ten digits' cosines to their distances on the number line."""

    correlation: float | None = None
    """Pearson's r of |i - j| and the cosine of the digits i and j, over the 45 pairs."""
    p_value: float | None = None
    """The share of orders of the digits whose r is as low or lower; (hits + 1) / (draws + 1)."""
    draws: int
    cosines: tuple[tuple[float, ...], ...]
    """[10][10]."""


@dataclass(frozen=True, slots=True)
class CategoryLift:
    """The excess of a category's mean cosine over that of random tokens."""

    category: str
    words: int
    within: float
    """The mean cosine over the pairs of the category's words."""
    lift: float
    """``within`` less the mean cosine of the whole embedding."""
    random_mean: float
    """The mean lift of random sets with as many tokens."""
    random_deviation: float
    p_value: float
    """The share of random sets with at least this lift; (hits + 1) / (draws + 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    """The place of a special token's row among all rows."""

    token: str
    token_id: int
    norm: float
    norm_quantile: float
    """The share of rows with a smaller norm."""
    cosine_to_mean: float | None = None
    """The cosine with the mean row, None for a row of zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAgreement:
    """The likeness of an embedding and an LM head of its own, row by row."""

    mean_cosine: float
    neighbour_cosine: float | None = None
    """The null: the mean cosine with the head's row of the next token."""
    frobenius_gap: float
    """|E - U| / |E|."""
    least_cosine: float
    rows: int


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Divides rows [.., d] by their norms, in float64; a row of zeros stays a row of zeros."""
    x = rows.double()
    norm = x.norm(dim=-1, keepdim=True)
    return x / torch.where(norm > 0.0, norm, 1.0)


def digit_manifold(rows: torch.Tensor, draws: int = DRAWS, seed: int = 0) -> DigitManifold:
    """Correlates the cosines of the digits' rows [10, d], 0 to 9, with their distances, with a permutation
    test.

    Raises ValueError for another number of rows.
    """
    if rows.shape[0] != 10:
        raise ValueError(f"the digits have ten rows, not {rows.shape[0]}")
    u = unit(rows)
    cosines = u @ u.T
    i, j = upper_pairs(10)
    distance = (j - i).double()
    r = pearson(distance, cosines[i, j])
    p = None
    if r is not None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(draws, 10, generator=generator).argsort(1)
        shuffled = cosines[order[:, i], order[:, j]]
        centred = distance - distance.mean()
        spread = (shuffled - shuffled.mean(1, keepdim=True)).norm(dim=1) * centred.norm()
        p = (int((shuffled @ centred / spread <= r + 1e-12).sum()) + 1) / (draws + 1)
    return DigitManifold(
        correlation=r, p_value=p, draws=draws, cosines=tuple(tuple(row) for row in cosines.tolist())
    )


def mean_pair_cosine(rows: torch.Tensor) -> torch.Tensor:
    """Returns the mean cosine over the pairs of each set of rows: [.., n, d] gives [..]."""
    u = unit(rows)
    count = u.shape[-2]
    own = (u * u).sum((-1, -2))
    total = u.sum(-2)
    return ((total * total).sum(-1) - own) / (count * (count - 1))


def category_lift(
    categories: Mapping[str, torch.Tensor],
    pool: torch.Tensor,
    global_mean: float,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[CategoryLift, ...]:
    """Measures the lift of each category with at least three words, against random sets of equal size.

    ``categories`` gives the rows [n, d] of each; ``pool`` [m, d] the rows that random sets are drawn from:
    ordinary words, so that the null has what all words share. Sets with replacement between draws, never
    within one.
    """
    generator = torch.Generator().manual_seed(seed)
    similar = unit(pool)
    lifts: list[CategoryLift] = []
    for name, rows in categories.items():
        count = rows.shape[0]
        if count < FEWEST_WORDS or count > pool.shape[0]:
            continue
        within = float(mean_pair_cosine(rows))
        null = torch.tensor(
            [
                float(mean_pair_cosine(similar[torch.randperm(pool.shape[0], generator=generator)[:count]]))
                for _ in range(draws)
            ],
            dtype=torch.float64,
        )
        lifts.append(
            CategoryLift(
                category=name,
                words=count,
                within=within,
                lift=within - global_mean,
                random_mean=float(null.mean()) - global_mean,
                random_deviation=float(null.std(correction=0)),
                p_value=(int((null >= within).sum()) + 1) / (draws + 1),
            )
        )
    return tuple(lifts)


def special_tokens(
    ids: Mapping[str, int], rows: torch.Tensor, norms: torch.Tensor, mean: torch.Tensor
) -> tuple[SpecialToken, ...]:
    """Describes special tokens: ``ids`` by token, their ``rows`` in the same order, all ``norms`` [V]."""
    finite = norms[~norms.isnan()]
    told: list[SpecialToken] = []
    for (token, token_id), row in zip(ids.items(), rows, strict=True):
        norm = float(row.double().norm())
        scale = norm * float(mean.norm())
        told.append(
            SpecialToken(
                token=token,
                token_id=token_id,
                norm=norm,
                norm_quantile=float((finite < norm - 1e-12 * norm).double().mean()),
                cosine_to_mean=float(row.double() @ mean) / scale if scale > 0.0 else None,
            )
        )
    return tuple(told)


def head_agreement(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> HeadAgreement:
    """Compares an embedding with an untied head, chunk by chunk of the same rows.

    The null pairs each row with the head's next row. Rows that are zero or not finite on either side are
    left out. Raises ValueError where the chunks differ in shape or no row remains.
    """
    total = beside = gap = square = 0.0
    least, count, shifted = 1.0, 0, 0
    for left, right in pairs:
        if left.shape != right.shape:
            raise ValueError(f"embedding {tuple(left.shape)} and head {tuple(right.shape)} differ in shape")
        a, b = left.double(), right.double()
        good = (
            torch.isfinite(a).all(-1)
            & torch.isfinite(b).all(-1)
            & (a.norm(dim=-1) > 0)
            & (b.norm(dim=-1) > 0)
        )
        a, b = a[good], b[good]
        if a.shape[0] == 0:
            continue
        cosine = (unit(a) * unit(b)).sum(-1)
        total += float(cosine.sum())
        least = min(least, float(cosine.min()))
        gap += float(((a - b) ** 2).sum())
        square += float((a * a).sum())
        beside += float((unit(a[:-1]) * unit(b[1:])).sum())
        count += a.shape[0]
        shifted += a.shape[0] - 1
    if count == 0:
        raise ValueError("no row of the embedding and the head can be compared")
    return HeadAgreement(
        mean_cosine=total / count,
        neighbour_cosine=beside / shifted if shifted else None,
        frobenius_gap=math.sqrt(gap / square),
        least_cosine=least,
        rows=count,
    )
