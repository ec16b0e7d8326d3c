"""What goes into a step of a decoder, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..attention_stats import HeadStats


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` tokens of one sequence that follow each other, of which no logits are wanted.

    ``pages`` int32 [N]: the sequence's; ``length``: its keys including the piece.
    """

    count: int
    pages: Tensor
    length: int


@dataclass(frozen=True, slots=True)
class DecoderStep:
    """T tokens: those of ``pieces``, then the rows: one token a sequence, whose logits are wanted.

    ``ids``, ``positions`` int64 [T]; ``slots`` int32 [T], where each token's key and value go; ``keys``,
    ``values``: contiguous pages [P, Hk, page, D] of every layer, the same sequence being the same tensors
    from step to step (what a page of keys looks like inside is the decoder's business); ``page_table`` int32
    [B, N], ``lengths`` int32 [B] including the newest token; ``monitored``: the layers whose statistics are
    kept.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    page_table: Tensor
    lengths: Tensor
    rows: int
    pieces: Sequence[Piece]
    monitored: frozenset[int]


class Decoded(NamedTuple):
    """``logits`` [B, V]; ``heads``: fields [L, B, H] of the monitored layers, ``by_layer`` [L, B, 6] their
    signals in the order of ``attention_stats.layer_signals``, ``signals`` [B, 6] the mean over layers."""

    logits: Tensor
    heads: HeadStats
    by_layer: Tensor
    signals: Tensor


def prompt_runs(pieces: Sequence[Piece], tokens: int) -> list[tuple[int, int, int, int]]:
    """The pieces in runs of at most so many tokens.

    Each: its first token of the step, how many, the keys that the first one sees, the address of the pages.
    """
    runs, first = [], 0
    for piece in pieces:
        seen = piece.length - piece.count + 1
        pages = piece.pages.data_ptr()
        runs += [
            (first + i, min(tokens, piece.count - i), seen + i, pages) for i in range(0, piece.count, tokens)
        ]
        first += piece.count
    return runs
