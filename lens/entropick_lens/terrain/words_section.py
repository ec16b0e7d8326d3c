"""The section ``words``: the embedding's cosines against a graph of words.

The graph is the model's own ``lexicon.json``, else WordNet's nouns where its files are there, else a tree of
plain categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from ..section import Model, Options, Plot, Section
from .chains import ChainStep, HypernymChains, hypernym_chains
from .comparison import embedding_rows
from .groups import FEWEST_WORDS, CategoryLift, category_lift, mean_pair_cosine
from .lexical import DEBIAN_FOLDER, LexicalGraph, tree_graph, wordnet_graph
from .lexicon import lexicon_of
from .relational import RelationalAlignment, relational_alignment
from .vocabulary import NamedTokens, named_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WORDS: Final = 1000
_SHORTEST: Final = 3
_FEWEST: Final = 10
_DRAWS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The relation of an embedding to a graph of words."""

    graph: str
    known: int
    """Words of the graph that are one token."""
    alignment: RelationalAlignment | None = None
    """Of the rows as they are; None for fewer than ten words."""
    centred: RelationalAlignment | None = None
    """Of the rows less the mean row of these words: without the direction that all share."""
    chains: HypernymChains | None = None
    """Of the rows less their mean; None where no word stands above another."""
    categories: tuple[CategoryLift, ...]
    """Against random sets of the words of the graph."""


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> Words:
    """Compares the cosines of words that are one token with the distances in a graph of words."""
    named = named_tokens(model.tokenizer, model.shape.vocabulary)
    graph = graph_of(model.folder, named, DEBIAN_FOLDER)
    words = [at for at, word in enumerate(graph.words) if named.find(word) is not None]
    known = len(words)
    generator = torch.Generator().manual_seed(options.seed)
    words = sorted(words[i] for i in torch.randperm(known, generator=generator)[:MOST_WORDS].tolist())
    if known < _FEWEST:
        return Words(graph=graph.name, known=known, categories=())
    ids = {graph.words[at]: named.find(graph.words[at]) or 0 for at in words}
    rows = embedding_rows(model, list(ids.values()), options)
    draws = min(_DRAWS, options.permutations)
    chosen = _some(graph, words)
    distances = chosen.distances()
    place = {word: at for at, word in enumerate(ids)}
    groups = {
        name: rows[[place[word] for word in members if word in place]]
        for name, members in graph.categories.items()
        if sum(word in place for word in members) >= FEWEST_WORDS
    }
    return Words(
        graph=graph.name,
        known=known,
        alignment=relational_alignment(rows, distances, graph.name, options.seed, draws),
        centred=relational_alignment(rows - rows.mean(0), distances, graph.name, options.seed, draws),
        chains=hypernym_chains(rows - rows.mean(0), chosen, options.seed, draws),
        categories=category_lift(groups, rows, float(mean_pair_cosine(rows)), draws, options.seed),
    )


def graph_of(folder: Path, named: NamedTokens, wordnet: Path) -> LexicalGraph:
    """Chooses the graph of a model: its own, WordNet's nouns, or plain categories."""
    lexicon = lexicon_of(folder)
    if lexicon.own or not (wordnet / "data.noun").is_file():
        return tree_graph(lexicon.name, lexicon.categories)
    return wordnet_graph(wordnet, (word for word in named.words if len(word) >= _SHORTEST))


def _some(graph: LexicalGraph, words: list[int]) -> LexicalGraph:
    return LexicalGraph(
        graph.name,
        tuple(graph.words[at] for at in words),
        tuple(graph.nodes[at] for at in words),
        tuple(graph.ancestors[at] for at in words),
        graph.categories,
    )


def sentences(found: Words) -> tuple[str, ...]:
    """Tells how far the embedding follows the graph, with intervals."""
    one = found.alignment
    if one is None or one.pearson is None or one.spearman is None:
        return (f"{found.known} words of {found.graph} are one token: too few to compare, or all alike.",)
    said = [
        f"The cosines of {one.words} words that are one token follow {found.graph} (similarity 1 / (1 + "
        f"edges)) "
        f"with r = {one.pearson:.3f}{_interval(one.pearson_interval)}, rho = {one.spearman:.3f}"
        f"{_interval(one.spearman_interval)} over {one.pairs:,} pairs; 95 % intervals of resampled words; "
        f"permuted words reach that r with p = {one.mantel_p:.4f} (Mantel)."
    ]
    if found.centred is not None and found.centred.pearson is not None:
        said.append(
            f"Less the mean row of these words, r is {found.centred.pearson:.3f}"
            f"{_interval(found.centred.pearson_interval)}, p = {found.centred.mantel_p:.4f}."
        )
    if one.seed_deviation is not None:
        said.append(
            f"Drawing pairs anew with {one.seeds} seeds, as published, gives r a deviation of "
            f"{one.seed_deviation:.4f}: the spread of the drawing, not of the words."
        )
    near = sorted(one.bands, key=int)
    said.append(
        "Mean cosine by edges: " + ", ".join(f"{edges}: {one.bands[edges]:.3f}" for edges in near[:8]) + "."
    )
    if found.chains is not None:
        said.append(_chains(found.chains))
    if found.categories:
        clear = [c for c in found.categories if c.p_value < 0.05 / len(found.categories)]
        best = max(found.categories, key=lambda c: c.lift)
        said.append(
            f"{len(clear)} of {len(found.categories)} categories lie closer together than random sets of "
            f"the same "
            f"words (p < 0.05 after Bonferroni); most: {best.category} ({best.words} words, "
            f"{best.lift:+.3f})."
        )
    return tuple(said)


def _chains(found: HypernymChains) -> str:
    def shown(step: ChainStep) -> str:
        ends = "" if step.low is None or step.high is None else f" [{step.low:+.3f}, {step.high:+.3f}]"
        return f"{step.edges}: {step.cosine:+.3f}{ends} (n = {step.pairs})"

    others = "" if found.others is None else f"; words of no common chain have {found.others:+.3f}"
    return (
        f"Up the chains of hypernyms of {found.words} words ({found.pairs} pairs, less the mean row) the "
        f"mean cosine by edges is {', '.join(shown(step) for step in found.steps[:6])}{others}; permuted "
        f"words reach the mean of all pairs with p = {found.p_value:.4f}."
    )


def _interval(found: tuple[float, float] | None) -> str:
    return "" if found is None else f" [{found[0]:.3f}, {found[1]:.3f}]"


def plots(found: Words) -> tuple[Plot, ...]:
    """Returns the plot of the cosine by distance."""
    if found.alignment is None or not found.alignment.bands:
        return ()
    return (
        Plot(
            "bands",
            f"Mean cosine of two words by the number of edges between them in {found.graph}.",
            lambda figure: _bands(figure, found),
        ),
    )


def _bands(figure: Figure, found: Words) -> None:
    if found.alignment is None:
        return
    axes = figure.subplots()
    edges = sorted(found.alignment.bands, key=int)
    axes.plot([int(e) for e in edges], [found.alignment.bands[e] for e in edges], "o-")
    axes.set_xlabel("edges between the words")
    axes.set_ylabel("mean cosine")


SECTION: Final = Section(
    name="words",
    title="Words and their graph",
    version=2,
    result=Words,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("permutations", "seed"),
)
