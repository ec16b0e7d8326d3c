"""The sentences of the section ``embedding``: unusual figures, each beside its null."""

from __future__ import annotations

from collections.abc import Iterator

from .embedding_terrain import EmbeddingTerrain


def sentences(found: EmbeddingTerrain) -> tuple[str, ...]:
    """Describes an embedding with numbers, faults first."""
    parts = (_faults, _cloud, _volumes, _tokens, _groups, _head)
    return tuple(sentence for part in parts for sentence in part(found))


def _faults(found: EmbeddingTerrain) -> Iterator[str]:
    if found.norms.not_finite_rows:
        yield (
            f"{found.norms.not_finite_rows} rows of the embedding hold a number that is not finite: the "
            f"weights "
            "are damaged."
        )
    if found.norms.zero_rows:
        yield f"{found.norms.zero_rows} rows of the embedding are zero."
    if found.rows_without_token:
        yield f"{found.rows_without_token} rows have no token in the tokenizer (padding of the vocabulary)."


def _cloud(found: EmbeddingTerrain) -> Iterator[str]:
    s, cosine = found.spectrum, found.mean_cosine
    if s.participation_ratio is not None and s.participation_share is not None:
        yield (
            f"The embedding of {found.rows:,} tokens uses {s.participation_ratio:.0f} of {found.width} "
            f"dimensions "
            f"(participation ratio / d {s.participation_share:.3f}; Gaussian rows would have "
            f"{s.gaussian_share:.3f}); 90 % of its variance lie in {s.dimensions['90']} dimensions."
        )
    if cosine.mean is not None:
        yield (
            f"The mean cosine of all pairs is {cosine.mean:.4f} (one pair of random directions: 0 ± "
            f"{cosine.null_deviation:.4f}); the mean row has {cosine.mean_row_share or 0.0:.0%} of the mean "
            f"norm."
        )
    d = found.dimensions
    if d.largest_variance > 5.0 or d.largest_mean > 2.0:
        yield (
            f"Coordinate {d.largest_variance_at} has {d.largest_variance:.1f} times the mean variance; "
            f"coordinate "
            f"{d.largest_mean_at} has a mean of {d.largest_mean:.1f} times the root mean square of a row."
        )
    special = [mark for mark in found.pairs.marks if mark.cosine not in (0.0, 0.5)]
    yield (
        "Cosines that were called constants of training: "
        + ", ".join(
            f"{mark.share:.2%} of pairs lie within 0.01 of {mark.cosine} (a normal curve of the same mean "
            f"and "
            f"deviation: {mark.null_share:.2%})"
            for mark in special
        )
        + "."
    )


def _volumes(found: EmbeddingTerrain) -> Iterator[str]:
    s = found.simplices
    if s.variation is None or s.predicted is None or s.norm_variation is None:
        return
    band = "" if s.interval is None else f" [{s.interval[0]:.3f}, {s.interval[1]:.3f}]"
    inside = s.interval is not None and s.interval[0] <= s.predicted <= s.interval[1]
    yield (
        f"Volumes of {s.simplices:,} simplices of five rows vary by {s.variation:.3f}{band}; Gaussian rows "
        f"would "
        f"have {_or(s.gaussian)}, Gaussian rows of the same covariance {_or(s.same_covariance)}, random "
        f"directions "
        f"with the same norms {_or(s.own_norms)}. The participation ratio and the norms' variation "
        f"({s.norm_variation:.3f}) predict {s.predicted:.3f}, "
        + ("within the interval." if inside else "outside the interval: pairs of rows are not independent.")
    )


def _tokens(found: EmbeddingTerrain) -> Iterator[str]:
    n = found.norms
    yield (
        f"Row norms go from {n.least:.3f} to {n.greatest:.3f}, median {n.quantiles['0.5']:.3f}; smallest: "
        f"{_listed(found.lowest_tokens)}; largest: {_listed(found.highest_tokens)}."
    )
    odd = [token for token in found.special if not 0.01 <= token.norm_quantile <= 0.99]
    if odd:
        yield (
            f"{len(odd)} of {len(found.special)} special tokens have norms among the 1 % smallest or "
            f"largest: " + ", ".join(f"{token.token} ({token.norm:.3f})" for token in odd[:5]) + "."
        )


def _groups(found: EmbeddingTerrain) -> Iterator[str]:
    digits = found.digits
    if digits is not None and digits.correlation is not None:
        yield (
            f"The cosines of the digits follow their distance with r = {digits.correlation:.3f} (p = "
            f"{digits.p_value:.4f} over {digits.draws:,} orders of the digits)."
        )
    elif digits is None:
        yield "The vocabulary has no ten digits as tokens: no digit manifold."
    if found.categories:
        clear = [lift for lift in found.categories if lift.p_value < 0.05 / len(found.categories)]
        best = max(found.categories, key=lambda lift: lift.lift)
        yield (
            f"{len(clear)} of {len(found.categories)} word categories ({found.lexicon}) lie closer together "
            f"than "
            f"random words, p < 0.05 after Bonferroni; most: {best.category}, {best.lift:+.3f} over the mean "
            f"cosine (random sets of {best.words} words {best.random_mean:+.3f} ± "
            f"{best.random_deviation:.3f})."
        )


def _head(found: EmbeddingTerrain) -> Iterator[str]:
    head = found.head
    if head is not None:
        beside = (
            ""
            if head.neighbour_cosine is None
            else f" (with the next token's row {head.neighbour_cosine:.3f})"
        )
        yield (
            f"The output matrix is not the embedding: a token's rows have a mean cosine of "
            f"{head.mean_cosine:.3f}"
            f"{beside}, and |E - U| / |E| is {head.frobenius_gap:.2f}."
        )


def _or(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _listed(tokens: tuple[str, ...], count: int = 4) -> str:
    return ", ".join(repr(token) for token in tokens[:count])
