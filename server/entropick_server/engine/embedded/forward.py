"""The types of a forward: what a decoder is given of a step, what it gives back, and what the sampler gets.

A step is packed into one row of T tokens: first the tokens of prefill chunks, of which no logits are wanted,
then the *rows*, one token a sequence, whose logits and attention are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from entropick_kernels.attention_stats import HeadStats, Implementation, layer_signals
from entropick_kernels.decoder import Decoded

from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """Tokens ``begin .. begin + count`` of the packed row, which follow each other in one prompt.

    ``pages`` int32 [N]: the sequence's pages. ``length``: its keys including the chunk.
    """

    begin: int
    count: int
    pages: Tensor
    length: int


@dataclass(frozen=True, slots=True)
class StepInput:
    """The tokens of a step and the cache that they attend to.

    ``ids``, ``positions`` int64 [T]; ``slots`` int32 [T]: where each token's key and value go; ``keys``,
    ``values``: the pages of every layer, [P, Hk, page, D]. ``chunks`` cover the first T - B tokens, the rows
    are the last B: ``page_table`` int32 [B, N], ``lengths`` int32 [B] including the newest token.
    ``monitored``: the layers whose attention is measured. ``implementation``: the kernels to use, None for
    the fastest.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    keys: Seq[Tensor]
    values: Seq[Tensor]
    chunks: Seq[PackedChunk]
    page_table: Tensor
    lengths: Tensor
    monitored: frozenset[int]
    implementation: Implementation | None = None

    @property
    def rows(self) -> int:
        """Counts the rows of the step."""
        return self.lengths.shape[0]


class Decoder(Protocol):
    """A way to run the model over a step."""

    def __call__(self, step: StepInput) -> Decoded | None:
        """Runs the model. Returns logits and attention figures of the rows, None for a step without rows."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardOutput:
    """The output of a forward for its B rows, ``sequences``.

    ``logits`` [B, V]; ``heads``: each field [L, B, H] over the monitored layers; ``by_layer`` [L, B, 6] and
    its mean over layers ``signals`` [B, 6], in the order of ATTENTION_SIGNALS.
    """

    sequences: tuple[Sequence, ...]
    logits: Tensor
    heads: HeadStats
    by_layer: Tensor
    signals: Tensor


def decoded(logits: Tensor, stats: Seq[HeadStats]) -> Decoded:
    """Joins the logits of a step's rows with their attention statistics, one a monitored layer."""
    heads = HeadStats(*(torch.stack(figures) for figures in zip(*stats, strict=True)))
    by_layer = layer_signals(heads)
    return Decoded(logits, heads, by_layer, by_layer.mean(0))
