"""The section ``weights``: spectra, sparsity, symmetry, neurons, cosines between layers, norm scales.

One matrix is in memory at a time, in float32; of the cosines between layers a block of every layer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch

from ..section import Model, Options, Section, progress
from ..weights import PARTS, Part, WeightsError
from .across_layers import layer_cosines
from .lanczos import estimated_spectrum
from .matrices import matrix_spectrum, sparsity
from .neurons import Neurons, neurons_of
from .norm_scales import NormScale, norm_scale
from .query_key import layer_symmetries
from .weight_plots import plots
from .weight_sentences import sentences
from .weight_terrain import HeadSymmetry, MatrixFigures, PartCosines, WeightTerrain

_WRITES: Final = ("o", "down")
"""The matrices that write the residual stream, [d, in]; the others read it, [out, d]."""


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> WeightTerrain:
    """Measures every weight matrix of a model, layer by layer."""
    figures: list[MatrixFigures] = []
    heads: list[HeadSymmetry] = []
    neurons: list[Neurons | None] = []
    for layer in progress(range(model.shape.layers), "weights", options):
        found, products = _matrices(model, layer, options)
        figures += found
        neurons.append(neurons_of(products) if bool((products > 0.0).any()) else None)
        heads += _heads(model, layer, options)
    return WeightTerrain(
        layers=model.shape.layers,
        head_dim=model.shape.head_dim,
        folded=not options.raw,
        rotary=getattr(model.config, "rope_parameters", None) is not None,
        matrices=tuple(figures),
        heads=tuple(heads),
        neurons=tuple(neurons),
        cosines=_cosines(model, options),
        norms=tuple(_norms(model)),
    )


def _matrices(model: Model, layer: int, options: Options) -> tuple[list[MatrixFigures], torch.Tensor]:
    """Returns the figures of a layer's matrices, and its neurons' products of norms [F]."""
    figures: list[MatrixFigures] = []
    products = torch.ones(model.shape.inner, dtype=torch.float64)
    for part in PARTS:
        small = sparsity(model.weights.matrix(layer, part, raw=True))
        matrix = model.weights.matrix(layer, part, raw=options.raw)
        bad = matrix.numel() - int(torch.isfinite(matrix).sum())
        spectrum = None
        if not bad and bool(matrix.any()):
            spectrum = (
                estimated_spectrum(matrix, seed=options.seed) if options.quick else matrix_spectrum(matrix)
            )
        figures.append(
            MatrixFigures(layer=layer, part=part, spectrum=spectrum, sparsity=small, not_finite=bad)
        )
        if part in ("gate", "up", "down"):
            products *= torch.linalg.vector_norm(matrix, dim=0 if part == "down" else 1).double().nan_to_num()
    return figures, products


def _heads(model: Model, layer: int, options: Options) -> list[HeadSymmetry]:
    query = model.weights.matrix(layer, "q", raw=options.raw)
    key = model.weights.matrix(layer, "k", raw=options.raw)
    if not bool(torch.isfinite(query).all() and torch.isfinite(key).all()):
        return []
    found = layer_symmetries(query, key, model.shape.heads, model.shape.kv_heads)
    return [
        HeadSymmetry(
            layer=layer,
            head=head,
            deviation=one.deviation,
            balance=one.balance,
            positive=one.positive,
            negative=one.negative,
        )
        for head, one in enumerate(found)
    ]


def _cosines(model: Model, options: Options) -> tuple[PartCosines, ...]:
    if model.shape.layers < 2:
        return ()

    def read(layer: int, part: Part) -> torch.Tensor:
        return model.weights.matrix(layer, part, raw=options.raw).nan_to_num()

    return tuple(
        PartCosines(
            part,
            layer_cosines(
                partial(read, part=part),
                model.shape.layers,
                0 if part in _WRITES else 1,
                with_gram=not options.quick,
            ),
        )
        for part in progress(PARTS, "layers against layers", options)
    )


def _norms(model: Model) -> list[NormScale]:
    """Describes the norms that the weights name; a part without a norm before it has none."""
    scales: list[NormScale] = []
    for layer in range(model.shape.layers):
        for kind in ("attention", "mlp"):
            try:
                scale = model.weights.norm(layer, "attention" if kind == "attention" else "mlp")
            except WeightsError:
                continue
            scales.append(norm_scale(f"layer {layer} {kind}", scale))
    scales.append(norm_scale("final", model.weights.final_norm()))
    return scales


SECTION: Final = Section(
    name="weights",
    title="Terrain of the weights",
    version=1,
    result=WeightTerrain,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("raw", "quick", "seed"),
)
