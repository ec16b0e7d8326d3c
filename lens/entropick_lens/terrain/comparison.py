"""The alignment of two models' embeddings, over the tokens that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from ..section import InspectError, Model, Options, Plot, Section, progress
from .procrustes import Alignment, align
from .rows import CHUNK_ROWS
from .simplices import paired_volumes
from .vocabulary import Tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TOKENS: Final = 15_000
"""Two thirds of them are fitted, a third is held out."""
FEWEST_TOKENS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The second model's embedding as a rotation of the first's."""

    first: str
    second: str
    common: int
    """Tokens of the same bytes in both vocabularies."""
    alignment: Alignment
    best: tuple[str, ...]
    """The held-out tokens that the rotation maps best, as the first vocabulary writes them."""
    worst: tuple[str, ...]
    volume_r: float | None = None
    """Pearson's r of the log volumes of the same simplices of tokens in both models."""
    volume_pairs: int
    volumes_dropped: int


def compare(first: Model, second: Model, options: Options) -> Comparison:
    """Aligns the embedding of the first model with that of the second, on tokens that both have.

    Raises InspectError for fewer than 30 such tokens.
    """
    here, there = (_by_bytes(model.tokenizer, model.shape.vocabulary) for model in (first, second))
    common = sorted(set(here) & set(there))
    if len(common) < FEWEST_TOKENS:
        raise InspectError(
            f"{first.name} and {second.name} have {len(common)} tokens in common; an alignment needs "
            f"{FEWEST_TOKENS}"
        )
    generator = torch.Generator().manual_seed(options.seed)
    picked = [common[i] for i in torch.randperm(len(common), generator=generator)[:MOST_TOKENS].tolist()]
    ids = [here[token] for token in picked]
    a, b = embedding_rows(first, ids, options), embedding_rows(second, [there[t] for t in picked], options)
    kept = torch.nonzero(torch.isfinite(a).all(1) & torch.isfinite(b).all(1)).squeeze(1)
    a, b = a[kept], b[kept]
    try:
        found = align(a, b, 2 * len(kept) // 3, options.seed)
    except ValueError as error:
        raise InspectError(f"{first.name} and {second.name}: {error}") from error
    r, pairs, dropped = paired_volumes(a, b, seed=options.seed)
    names = [first.tokenizer.vocabulary_token(ids[at]) for at in kept.tolist()]
    return Comparison(
        first=first.name,
        second=second.name,
        common=len(common),
        alignment=found,
        best=tuple(names[at] for at in found.best),
        worst=tuple(names[at] for at in found.worst),
        volume_r=r,
        volume_pairs=pairs,
        volumes_dropped=dropped,
    )


def embedding_rows(model: Model, ids: list[int], options: Options) -> torch.Tensor:
    """Reads the rows of some ids, in their order, from the chunks of a model's embedding."""
    wanted = torch.tensor(ids)
    rows = torch.empty(len(ids), model.shape.hidden)
    for start, chunk in progress(model.weights.embedding_rows(CHUNK_ROWS), "rows", options):
        here = (wanted >= start) & (wanted < start + chunk.shape[0])
        rows[here] = chunk[wanted[here] - start]
    return rows


def _by_bytes(tokenizer: Tokens, rows: int) -> dict[bytes, int]:
    """Returns the ids by the tokens' bytes; special tokens are left out, whose names mean other things."""
    found: dict[bytes, int] = {}
    for token_id in range(min(tokenizer.size, rows)):
        data = tokenizer.token_bytes(token_id)
        if data is not None:
            found.setdefault(data, token_id)
    return found


def sentences(found: Comparison) -> tuple[str, ...]:
    """Tells how well the rotation maps tokens that were held out."""
    one = found.alignment
    projected = (
        ""
        if one.projected_from is None
        else f" (the wider of {one.projected_from} dimensions projected on {one.width} principal axes)"
    )
    r = "" if one.pair_cosine_r is None else f" The cosines of pairs agree with r = {one.pair_cosine_r:.3f}."
    volume = "" if found.volume_r is None else " Log volumes of the same simplices: r = "
    f"{found.volume_r:.3f}."
    return (
        f"{found.common:,} tokens are in both vocabularies. A rotation of {found.first} onto "
        f"{found.second}, fitted "
        f"on {one.anchors:,}{projected}, maps the {one.held_out:,} held-out tokens with a mean cosine of "
        f"{one.cosine_held_out:.3f} (fitted on shuffled pairs {one.cosine_shuffled:.3f}; on the anchors "
        f"themselves "
        f"{one.cosine_anchors:.3f}) and a residual of {one.residual_held_out:.2f} of their spread; its "
        f"scale is "
        f"{one.scale:.3f}.{r}{volume}",
        f"Best mapped: {', '.join(map(repr, found.best[:6]))}; worst: "
        f"{', '.join(map(repr, found.worst[:6]))}.",
    )


def plots(found: Comparison) -> tuple[Plot, ...]:
    """Returns the plot of the residual's spectrum."""
    return (
        Plot(
            "residual",
            "Singular values of the held-out residual, over the spread of the second model's rows: a flat "
            "line is "
            "noise, a steep fall a few directions that the rotation misses.",
            lambda figure: _residual(figure, found),
        ),
    )


def _residual(figure: Figure, found: Comparison) -> None:
    axes = figure.subplots()
    values = found.alignment.residual_spectrum
    axes.loglog(range(1, len(values) + 1), [max(value, 1e-12) for value in values])
    axes.set_xlabel("rank")
    axes.set_ylabel("singular value / spread")


def _not_alone(model: Model, options: Options, results: Mapping[str, Any]) -> Comparison:
    raise InspectError("a comparison needs two models")


SECTION: Final = Section(
    name="alignment",
    title="One embedding as a rotation of the other",
    version=1,
    result=Comparison,
    measure=_not_alone,
    sentences=sentences,
    plots=plots,
)
