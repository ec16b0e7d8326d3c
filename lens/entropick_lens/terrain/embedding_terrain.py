"""The result of the section ``embedding``."""

from __future__ import annotations

from dataclasses import dataclass

from .embedding import MeanCosine, Norms, Spectrum
from .groups import CategoryLift, DigitManifold, HeadAgreement, SpecialToken
from .pairs import Pairs
from .simplices import SimplexVariation


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The coordinates of the embedding that stand out."""

    largest_mean: float
    """The largest |mean| of a coordinate, in units of the mean norm / sqrt(d)."""
    largest_mean_at: int
    largest_variance: float
    """The largest variance of a coordinate, divided by the mean variance."""
    largest_variance_at: int
    mean_of_means: float
    mean_deviation: float
    """The mean over the coordinates of their standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTerrain:
    """The figures of an embedding [V, d]."""

    rows: int
    width: int
    tied: bool
    rows_without_token: int
    """Rows beyond the tokenizer's last id."""
    spectrum: Spectrum
    norms: Norms
    lowest_tokens: tuple[str, ...]
    """The tokens of ``norms.lowest``, as the vocabulary writes them."""
    highest_tokens: tuple[str, ...]
    norm_histogram: tuple[tuple[float, int], ...]
    """The lower edge and the count of 60 bins of equal width."""
    dimensions: Dimensions
    mean_cosine: MeanCosine
    pairs: Pairs
    simplices: SimplexVariation
    digits: DigitManifold | None = None
    categories: tuple[CategoryLift, ...]
    lexicon: str
    """The name of the categories' source."""
    special: tuple[SpecialToken, ...]
    head: HeadAgreement | None = None
    """None where the output matrix is the embedding."""
