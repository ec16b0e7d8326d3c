"""The result of the section ``weights``."""

from __future__ import annotations

from dataclasses import dataclass

from .across_layers import LayerCosines
from .matrices import MatrixSpectrum, Sparsity
from .neurons import Neurons
from .norm_scales import NormScale


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFigures:
    """The figures of a weight matrix of a layer."""

    layer: int
    part: str
    """q, k, v, o, gate, up or down"""
    spectrum: MatrixSpectrum | None = None
    """Of the matrix with its norm's scale folded in, or as stored; None for a matrix of zeros."""
    sparsity: Sparsity
    """Of the matrix as stored."""
    not_finite: int
    """Entries that are not finite; with any there is no spectrum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSymmetry:
    """The symmetry of a head's query-key product, without its eigenvalues."""

    layer: int
    head: int
    deviation: float | None = None
    balance: float | None = None
    positive: int
    negative: int


@dataclass(frozen=True, slots=True)
class PartCosines:
    """The cosines between the layers' matrices of a kind."""

    part: str
    cosines: LayerCosines


@dataclass(frozen=True, slots=True)
class WeightTerrain:
    """The figures of a model's weight matrices, layer by layer."""

    layers: int
    head_dim: int
    folded: bool
    """True where the norms' scales are folded into the projections."""
    rotary: bool
    """True where the query-key product holds for two tokens at the same position alone."""
    matrices: tuple[MatrixFigures, ...]
    heads: tuple[HeadSymmetry, ...]
    neurons: tuple[Neurons | None, ...]
    """By layer; None where every neuron of the layer is zero."""
    cosines: tuple[PartCosines, ...]
    """Empty for a model of one layer."""
    norms: tuple[NormScale, ...]
