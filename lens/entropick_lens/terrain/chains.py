"""The cosine of a word with the words above it in a graph: along the chain of its hypernyms.

Only words that name a node of their own can stand above another, so a tree of plain categories has no chains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .groups import unit
from .lexical import LexicalGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStep:
    """The cosines of words with the words so many edges above them."""

    edges: int
    pairs: int
    cosine: float
    """mean over pairs"""
    low: float | None = None
    """2.5 percentile with the lower words drawn again"""
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernymChains:
    """The course of the cosine along the chains of hypernyms."""

    words: int
    """words with a hypernym among the words"""
    pairs: int
    steps: tuple[ChainStep, ...]
    others: float | None = None
    """mean cosine of two words of which none is above the other, nor its synonym; None without such words"""
    p_value: float
    """share of permutations of the words, the observed order among them, in which the chains' mean cosine is
    at least as high"""


def hypernym_chains(
    rows: torch.Tensor, graph: LexicalGraph, seed: int = 0, draws: int = 1000
) -> HypernymChains | None:
    """Follows the cosine of the words' rows [n, d] up the graph; None where no word is above another.

    Synonyms, no edge apart, are no step. Intervals draw the lower words again, with all of their hypernyms.
    """
    u = unit(rows)
    cosines = u @ u.T
    edges = torch.zeros(len(graph.words), len(graph.words), dtype=torch.int64)
    of_node: dict[str, list[int]] = {}
    for at, node in enumerate(graph.nodes):
        of_node.setdefault(node, []).append(at)
    for at, up in enumerate(graph.ancestors):
        for node in up.keys() & of_node.keys():
            edges[at, of_node[node]] = up[node]
    low, high = edges.nonzero(as_tuple=True)
    if not low.numel():
        return None
    values = cosines[low, high]
    related = (edges > 0) | (edges.T > 0)
    for same in of_node.values():
        related[torch.tensor(same)[:, None], torch.tensor(same)] = True
    generator = torch.Generator().manual_seed(seed)
    count = len(graph.words)
    times = torch.stack(
        [
            torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count).double()
            for _ in range(draws)
        ]
    )
    found = float(values.mean())
    hits = 0
    for _ in range(draws):
        order = torch.randperm(count, generator=generator)
        hits += float(cosines[order[low], order[high]].mean()) >= found - 1e-12
    return HypernymChains(
        words=len(set(low.tolist())),
        pairs=low.numel(),
        steps=tuple(
            _step(number, low[edges[low, high] == number], values[edges[low, high] == number], times)
            for number in sorted(set(edges[low, high].tolist()))
        ),
        others=float(cosines[~related].mean()) if (~related).any() else None,
        p_value=(hits + 1) / (draws + 1),
    )


def _step(number: int, low: torch.Tensor, values: torch.Tensor, times: torch.Tensor) -> ChainStep:
    weights = times[:, low]
    counted = weights.sum(1)
    drawn = ((weights @ values)[counted > 0] / counted[counted > 0]).sort().values
    known = drawn.numel() > len(times) // 2 and len(set(low.tolist())) > 1
    return ChainStep(
        edges=number,
        pairs=values.numel(),
        cosine=float(values.mean()),
        low=float(drawn[int(0.025 * drawn.numel())]) if known else None,
        high=float(drawn[int(0.975 * drawn.numel()) - 1]) if known else None,
    )
