"""The types of a layer's buffers and a step's tables, which arrive apart and are measured together.

Knows nothing of vLLM.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

from torch import Tensor

from .capture import Captured


class LayerBuffers(NamedTuple):
    """The buffers of one layer, which forwards and replays of a graph fill in every step.

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
    """The tables of one step, for the layers that share a block table.

    ``blocks`` int [B, N], ``lengths`` int [B]; ``longest``: the largest length or more.
    """

    blocks: Tensor
    lengths: Tensor
    longest: int


def join(layer: LayerBuffers, step: StepTables) -> Captured | None:
    """Joins a layer's buffers with a step's tables. Returns None where vLLM has freed the cache."""
    cache = layer.cache()
    if cache is None:
        return None
    return Captured(
        layer.newest[: step.lengths.shape[0]],
        cache,
        step.blocks,
        step.lengths,
        step.longest,
        layer.scale,
        layer.window,
        layer.softcap,
        transposed=False,
    )


def layer_number(name: str) -> int:
    """Reads the number in a layer's name (``model.layers.3.self_attn.attn``), -1 where there is none."""
    parts = [part for part in name.split(".") if part.isdigit()]
    return int(parts[0]) if parts else -1
