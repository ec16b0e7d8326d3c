"""A layer's part and a step's part of what is measured, where the two arrive apart. Knows nothing of vLLM."""

from __future__ import annotations

import weakref
from typing import NamedTuple

from torch import Tensor

from .capture import Captured


class Kept(NamedTuple):
    """One layer, for every step: buffers that forwards and replays fill.

    ``newest`` [rows, H, D]; ``cache`` [blocks, Hk, block, D or more], keys in the first D columns, while vLLM
    has it: it is a view of all layers' caches, which must not live on here; ``scale``, ``window`` and
    ``softcap`` as in :class:`Captured`.
    """

    newest: Tensor
    cache: weakref.ref[Tensor]
    scale: float
    window: int | None
    softcap: float


class StepTables(NamedTuple):
    """One step of the layers that share a page table: ``pages`` int [B, N], ``lengths`` int [B]."""

    pages: Tensor
    lengths: Tensor
    longest: int


def joined(layer: Kept, step: StepTables) -> Captured | None:
    """What :func:`~.capture.measure` takes; None where the cache is gone."""
    cache = layer.cache()
    if cache is None:
        return None
    return Captured(
        layer.newest[: step.lengths.shape[0]],
        cache,
        step.pages,
        step.lengths,
        step.longest,
        layer.scale,
        layer.window,
        layer.softcap,
        transposed=False,
    )


def layer_number(name: str) -> int:
    """The number in a layer's name (``model.layers.3.self_attn.attn``), -1 without one."""
    parts = [part for part in name.split(".") if part.isdigit()]
    return int(parts[0]) if parts else -1
