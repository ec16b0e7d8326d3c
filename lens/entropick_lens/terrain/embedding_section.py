"""The section ``embedding``: the terrain of the embedding, read once in chunks of 4,096 rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from ..section import InspectError, Model, Options, Section, progress
from . import embedding, groups
from .embedding_plots import plots
from .embedding_sentences import sentences
from .embedding_terrain import Dimensions, EmbeddingTerrain
from .lexicon import lexicon_of
from .pairs import pairs
from .rows import CHUNK_ROWS, RowSums, sum_rows
from .simplices import VERTICES, simplex_variation
from .vocabulary import NamedTokens, named_tokens

_SIMPLICES: Final = 1000
_PAIR_ROWS: Final = 5000
_POOL: Final = 2000
_FEWEST_ROWS: Final = 10
_BINS: Final = 60
_LIFT_DRAWS: Final = 1000


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> EmbeddingTerrain:
    """Measures the embedding of a model. Raises InspectError for a vocabulary of fewer than ten rows."""
    rows = model.shape.vocabulary
    if rows < _FEWEST_ROWS:
        raise InspectError(
            f"{model.name}: an embedding of {rows} rows has no terrain; it needs {_FEWEST_ROWS}"
        )
    named = named_tokens(model.tokenizer, rows)
    lexicon = lexicon_of(model.folder)
    categories = {
        name: ids
        for name, words in lexicon.categories.items()
        if len(ids := _found(named, words)) >= groups.FEWEST_WORDS
    }
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(rows, generator=generator)
    sample = order[: max(VERTICES * _SIMPLICES, _PAIR_ROWS)].tolist()
    pool = _drawn(sorted({*named.words.values(), *named.capitalised.values()}), _POOL, generator)
    keep = {
        *sample,
        *pool,
        *named.digits,
        *named.special.values(),
        *(i for ids in categories.values() for i in ids),
    }
    chunks = progress(model.weights.embedding_rows(CHUNK_ROWS), "embedding", options, -(-rows // CHUNK_ROWS))
    sums = sum_rows((chunk for _, chunk in chunks), keep)
    spectrum = embedding.spectrum(sums)
    cosine = embedding.mean_cosine(sums)
    norms = embedding.norms(sums)
    finite = [i for i in sample if bool(torch.isfinite(sums.norms[i]))]
    drawn = sums.of(finite)
    head = None
    if not model.weights.tied:
        both = zip(model.weights.embedding_rows(), model.weights.head_rows(), strict=True)
        head = groups.head_agreement((left, right) for (_, left), (_, right) in both)
    return EmbeddingTerrain(
        rows=sums.rows,
        width=sums.width,
        tied=model.weights.tied,
        rows_without_token=max(0, sums.rows - model.tokenizer.size),
        spectrum=spectrum,
        norms=norms,
        lowest_tokens=_names(model, norms.lowest),
        highest_tokens=_names(model, norms.highest),
        norm_histogram=_histogram(sums.norms),
        dimensions=dimensions(sums),
        mean_cosine=cosine,
        pairs=pairs(drawn[:_PAIR_ROWS]),
        simplices=simplex_variation(drawn, sums.mean, spectrum.eigenvalues, _SIMPLICES, options.seed),
        digits=groups.digit_manifold(sums.of(named.digits), options.permutations, options.seed)
        if named.digits
        else None,
        categories=groups.category_lift(
            {name: sums.of(ids) for name, ids in categories.items()},
            sums.of(pool),
            cosine.mean or 0.0,
            _LIFT_DRAWS,
            options.seed,
        )
        if pool
        else (),
        lexicon=lexicon.name,
        special=groups.special_tokens(
            named.special, sums.of(list(named.special.values())), sums.norms, sums.mean
        )
        if named.special
        else (),
        head=head,
    )


def dimensions(sums: RowSums) -> Dimensions:
    """Finds the coordinates with the largest mean and the largest variance."""
    mean = sums.mean
    variance = sums.covariance().diagonal().clamp(min=0.0)
    norm = float(sums.norms[~sums.norms.isnan()].mean())
    unit = norm / sums.width**0.5 if norm > 0.0 else 1.0
    spread = float(variance.mean())
    return Dimensions(
        largest_mean=float(mean.abs().max()) / unit,
        largest_mean_at=int(mean.abs().argmax()),
        largest_variance=float(variance.max()) / spread if spread > 0.0 else 0.0,
        largest_variance_at=int(variance.argmax()),
        mean_of_means=float(mean.mean()),
        mean_deviation=float(variance.sqrt().mean()),
    )


def _found(named: NamedTokens, words: Sequence[str]) -> list[int]:
    return [at for word in words if (at := named.find(word)) is not None]


def _drawn(ids: list[int], count: int, generator: torch.Generator) -> list[int]:
    return [ids[i] for i in torch.randperm(len(ids), generator=generator)[:count].tolist()]


def _names(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(model.tokenizer.vocabulary_token(i) for i in ids)


def _histogram(norms: torch.Tensor) -> tuple[tuple[float, int], ...]:
    finite = norms[~norms.isnan()]
    low, high = float(finite.min()), float(finite.max())
    if high <= low:
        return ((low, finite.numel()),)
    counts = torch.histc(finite, _BINS, low, high)
    step = (high - low) / _BINS
    return tuple((low + at * step, int(count)) for at, count in enumerate(counts.tolist()))


SECTION: Final = Section(
    name="embedding",
    title="Terrain of the embedding",
    version=1,
    result=EmbeddingTerrain,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("permutations", "seed"),
)
