"""The inputs and the results of a decoder step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..attention_stats import HeadStats


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """A run of consecutive tokens of one sequence whose keys are computed and no logits are wanted."""

    count: int
    """tokens"""
    blocks: Tensor
    """int32 [N], the sequence's block ids"""
    length: int
    """keys of the sequence including the chunk"""


class PromptSurprisals(NamedTuple):
    """The tokens of a step's chunks whose next token's surprisal is wanted, and the place for it.

    The places for its rank and for the K most probable tokens are None where nobody wants them.
    """

    tokens: Tensor
    """int64 [W], their numbers in the step"""
    targets: Tensor
    """int64 [W], the token that follows each in its sequence"""
    bits: Tensor
    """float32 [W]: -log2 P(target | tokens up to the token), which the decoder fills in"""
    ranks: Tensor | None = None
    """int64 [W]: how many tokens are at least as probable as the target; filled in"""
    top_ids: Tensor | None = None
    """int32 [W, K]: the most probable tokens, the most probable first; filled in"""
    top_bits: Tensor | None = None
    """float32 [W, K]: -log2 of their probabilities; filled in"""


class LayerLens(NamedTuple):
    """The rows of a step whose layers' entropies are wanted, and the place for them."""

    rows: Tensor
    """int64 [W], their numbers among the step's rows"""
    layers: tuple[int, ...]
    """numbers of the L layers, ascending"""
    entropy: Tensor
    """float32 [L, W], bits: of softmax(head @ norm(residual behind the layer)), which the decoder fills in"""


@dataclass(frozen=True, slots=True)
class DecoderStep:
    """A step over T tokens: first the prefill chunks', then one token a row, whose logits are wanted."""

    ids: Tensor
    """int64 [T]"""
    positions: Tensor
    """int64 [T]"""
    cache_index: Tensor
    """int32 [T], where each token's key and value go: block id * block size + offset"""
    keys: Sequence[Tensor]
    """contiguous blocks [P, Hk, block, D] of every layer. The caller must pass the same sequence of the same
    tensors at every step, and must not read keys: their order inside a block is the decoder's"""
    values: Sequence[Tensor]
    """as ``keys``, with values in order"""
    block_table: Tensor
    """int32 [B, N]"""
    lengths: Tensor
    """int32 [B], keys of each row including its newest token's"""
    rows: int
    chunks: Sequence[PrefillChunk]
    monitored: frozenset[int]
    """the layers whose statistics are kept"""
    surprisals: Tensor | None = None
    """float32 [P, block], as in ``attention_stats.TokenCosts``, where the rows' token costs are wanted"""
    prompt: PromptSurprisals | None = None
    """the prompt tokens whose surprisals are wanted"""
    lens: LayerLens | None = None
    """the rows whose layers' entropies are wanted"""


class Decoded(NamedTuple):
    """The logits of a step's rows, and the statistics of their attention."""

    logits: Tensor
    """[B, V]"""
    heads: HeadStats
    """fields [L, B, H] of the L monitored layers"""
    by_layer: Tensor
    """[L, B, 7], signals in the order of ``attention_stats.layer_signals``"""
    signals: Tensor
    """[B, 7], the mean over layers"""
    costs: Tensor | None = None
    """[L, B, H, 4], the figures of ``attention_stats.TokenCosts``, where they were wanted"""


def prompt_runs(chunks: Sequence[PrefillChunk], tokens: int) -> list[tuple[int, int, int, int]]:
    """Splits the chunks into runs of at most so many tokens, each with the fields of ``_records.RUN``."""
    runs, first = [], 0
    for chunk in chunks:
        seen = chunk.length - chunk.count + 1
        blocks = chunk.blocks.data_ptr()
        runs += [
            (first + i, min(tokens, chunk.count - i), seen + i, blocks) for i in range(0, chunk.count, tokens)
        ]
        first += chunk.count
    return runs
