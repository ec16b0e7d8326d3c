"""Does an embedding's cosine follow a graph of words? With a bootstrap over words and a permutation of them.

The pairs of n words are not n (n - 1) / 2 observations: each word is in n - 1 of them. So intervals
resample words, and the test permutes words (Mantel, 1967). Drawing pairs anew under many seeds, as
published, shows the spread of the drawing alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from .correlation import pearson, ranks, spearman, upper_pairs
from .groups import unit

RESAMPLES: Final = 1000
PERMUTATIONS: Final = 1000
SEEDS: Final = 50
_PAIRS_A_SEED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationalAlignment:
    """The correlation of the cosine of two words with their similarity 1 / (1 + edges) in a graph."""

    graph: str
    words: int
    pairs: int
    """Pairs of words of different nodes with a way between them."""
    pearson: float | None = None
    pearson_interval: tuple[float, float] | None = None
    """95 %, over resampled words."""
    spearman: float | None = None
    spearman_interval: tuple[float, float] | None = None
    """95 %, over resampled words; ranks are those of the whole sample."""
    mantel_p: float | None = None
    """The share of permutations of the words with at least this Pearson's r."""
    spearman_mantel_p: float | None = None
    seeds: int
    seed_mean: float | None = None
    """The mean of Pearson's r over samples of pairs, one sample a seed."""
    seed_deviation: float | None = None
    bands: dict[str, float]
    """The mean cosine by the number of edges."""


def relational_alignment(
    rows: torch.Tensor, distances: torch.Tensor, graph: str, seed: int = 0, draws: int = RESAMPLES
) -> RelationalAlignment:
    """Correlates the cosines of words' rows [n, d] with their distances [n, n] in a graph.

    Pairs of the same node (distance 0) and pairs without a way (infinite) are left out. ``draws`` is the
    number of resamples and of permutations.
    """
    u = unit(rows)
    cosines = u @ u.T
    similar = 1.0 / (1.0 + distances.double())
    usable = torch.isfinite(distances) & (distances > 0.0)
    i, j = upper_pairs(rows.shape[0])
    kept = usable[i, j]
    i, j = i[kept], j[kept]
    x, y = cosines[i, j], similar[i, j]
    generator = torch.Generator().manual_seed(seed)
    r, rho = pearson(x, y), spearman(x, y)
    ranked_x, ranked_y = torch.zeros_like(cosines), torch.zeros_like(cosines)
    for table, values in ((ranked_x, ranks(x)), (ranked_y, ranks(y))):
        table[i, j] = values
        table[j, i] = values
    known = r is not None and rho is not None
    by_seed = torch.tensor(_by_seed(x, y)) if known else None
    return RelationalAlignment(
        graph=graph,
        words=rows.shape[0],
        pairs=i.numel(),
        pearson=r,
        pearson_interval=_bootstrap(cosines, similar, usable, draws, generator) if known else None,
        spearman=rho,
        spearman_interval=_bootstrap(ranked_x, ranked_y, usable, draws, generator) if known else None,
        mantel_p=_mantel(cosines, similar, (i, j), draws, generator) if known else None,
        spearman_mantel_p=_mantel(ranks_of(cosines), ranked_y, (i, j), draws, generator) if known else None,
        seeds=SEEDS,
        seed_mean=None if by_seed is None else float(by_seed.mean()),
        seed_deviation=None if by_seed is None else float(by_seed.std(correction=0)),
        bands={
            str(int(edges)): float(x[distances[i, j] == edges].mean())
            for edges in sorted(set(distances[i, j].tolist()))
        },
    )


def ranks_of(table: torch.Tensor) -> torch.Tensor:
    """Returns the ranks of a symmetric table's entries off its diagonal, [n, n], with 0 on the diagonal."""
    i, j = upper_pairs(table.shape[0])
    ranked = torch.zeros_like(table)
    ranked[i, j] = ranks(table[i, j])
    return ranked + ranked.T


def _bootstrap(
    x: torch.Tensor, y: torch.Tensor, usable: torch.Tensor, draws: int, generator: torch.Generator
) -> tuple[float, float] | None:
    """Resamples words; a pair counts as often as its words' counts say, never a word with itself."""
    count = x.shape[0]
    allowed = usable.double()
    flat_x, flat_y = torch.where(usable, x, 0.0), torch.where(usable, y, 0.0)
    moments = (allowed, flat_x, flat_y, flat_x * flat_x, flat_y * flat_y, flat_x * flat_y)
    times = torch.stack(
        [
            torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count).double()
            for _ in range(draws)
        ]
    )
    n, sx, sy, sxx, syy, sxy = (((times @ table) * times).sum(1) for table in moments)
    spread = ((n * sxx - sx * sx) * (n * syy - sy * sy)).clamp(min=0.0).sqrt()
    found = ((n * sxy - sx * sy) / spread)[spread > 0.0].sort().values
    if found.numel() < draws // 2:
        return None
    return float(found[int(0.025 * found.numel())]), float(found[int(0.975 * found.numel()) - 1])


def _mantel(
    x: torch.Tensor,
    y: torch.Tensor,
    pairs: tuple[torch.Tensor, torch.Tensor],
    draws: int,
    generator: torch.Generator,
) -> float:
    i, j = pairs
    fixed = y[i, j] - y[i, j].mean()

    def score(order: torch.Tensor) -> float:
        turned = x[order[i], order[j]]
        centred = turned - turned.mean()
        return float(centred @ fixed / centred.norm())

    found = score(torch.arange(x.shape[0]))
    hits = sum(score(torch.randperm(x.shape[0], generator=generator)) >= found - 1e-12 for _ in range(draws))
    return (hits + 1) / (draws + 1)


def _by_seed(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    values = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        size = min(_PAIRS_A_SEED, x.numel() // 2)
        picked = torch.randperm(x.numel(), generator=generator)[:size]
        r = pearson(x[picked], y[picked])
        if r is not None:
            values.append(r)
    return values
