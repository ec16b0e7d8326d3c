"""The result of the section ``states``."""

from __future__ import annotations

from dataclasses import dataclass

from .neurons import SilentNeurons
from .reach import HeadReach
from .states import LayerStates


@dataclass(frozen=True, slots=True)
class States:
    """The residual stream, silent neurons and the heads' reach on some texts."""

    texts: int
    tokens: int
    layers: tuple[LayerStates, ...]
    """The embedding first, then the output of each layer."""
    silent: tuple[SilentNeurons, ...]
    """By layer."""
    edges: tuple[int, ...]
    """The first distance of each bin of ``reach``."""
    reach: tuple[HeadReach, ...]
