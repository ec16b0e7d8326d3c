"""Dead and weak neurons of a layer's MLP, by their weights and by a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

DEAD: Final = 0.01
WEAK: Final = 0.1
_LISTED: Final = 32


@dataclass(frozen=True, slots=True)
class Neurons:
    """The neurons of a layer whose weights are small beside the layer's others."""

    neurons: int
    dead: int
    """Below 1 % of the layer's mean product of norms."""
    weak: int
    """Below 10 % of it, the dead ones included."""
    dead_ids: tuple[int, ...]
    """The first 32."""
    least: float
    """The smallest product of norms, divided by the mean."""
    greatest: float


@dataclass(frozen=True, slots=True)
class SilentNeurons:
    """The neurons of a layer that never contribute on a text."""

    neurons: int
    positions: int
    silent: int
    """Neurons whose largest |activation| * |column of down| over the text is below 1 % of the
    layer's mean."""
    silent_ids: tuple[int, ...]
    """The first 32."""
    dead_too: int
    """Silent neurons whose product of norms is below 1 % of the layer's mean as well."""


def neurons_of(products: torch.Tensor) -> Neurons:
    """Counts dead and weak neurons by their products of norms [F]. Raises ValueError where all are 0."""
    mean = float(products.double().mean())
    if mean <= 0.0:
        raise ValueError("every neuron of the layer is zero")
    part = products.double() / mean
    dead = torch.nonzero(part < DEAD).squeeze(1)
    return Neurons(
        neurons=part.numel(),
        dead=dead.numel(),
        weak=int((part < WEAK).sum()),
        dead_ids=tuple(dead[:_LISTED].tolist()),
        least=float(part.min()),
        greatest=float(part.max()),
    )


def mlp_neurons(gate: torch.Tensor | None, up: torch.Tensor, down: torch.Tensor) -> Neurons:
    """Counts the neurons of an MLP: ``gate`` and ``up`` [F, d], ``down`` [d, F]; no gate for a plain MLP.

    A neuron's product is the norm of its gate row times its up row's times its down column's.
    """
    return neurons_of(norm_products(gate, up, down))


def norm_products(gate: torch.Tensor | None, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Returns each neuron's product of the norms of its gate row, up row and down column, [F]."""
    product: torch.Tensor = up.double().norm(dim=1) * down.double().norm(dim=0)
    return product if gate is None else product * gate.double().norm(dim=1)


def silent_neurons(
    peaks: torch.Tensor, down: torch.Tensor, positions: int, products: torch.Tensor
) -> SilentNeurons:
    """Counts the neurons that stay silent on a text.

    ``peaks`` [F] is the largest |activation| of each neuron over the text's positions, ``down`` [d, F],
    ``products`` [F] the products of norms.
    """
    contribution = peaks.double() * down.double().norm(dim=0)
    silent = contribution <= DEAD * contribution.mean()
    ids = torch.nonzero(silent).squeeze(1)
    dead = products < DEAD * products.mean()
    return SilentNeurons(
        neurons=peaks.numel(),
        positions=positions,
        silent=ids.numel(),
        silent_ids=tuple(ids[:_LISTED].tolist()),
        dead_too=int((silent & dead).sum()),
    )
