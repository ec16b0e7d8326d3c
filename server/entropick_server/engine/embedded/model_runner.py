"""The forward of a step: packs the scheduler's batch into one row of tokens and runs the decoder over it.

The rows of a step are the newest tokens of its decoding sequences, then those of the prompts that end in it,
in that order. In the packed row they come last, behind the other tokens of the prompts, so that "the last B"
are the tokens with logits.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch
from torch import Tensor

from entropick_kernels.decoder import DecoderStep, LayerLens, PrefillChunk, arrange_keys

from .batch import Batch, TailCopy
from .block_tables import BlockTables
from .cache import KVCache
from .forward import Decoder, ForwardOutput
from .sequence import Sequence
from .surprisals import Surprisals


class ModelRunner:
    """The decoder and its cache; called by the engine thread alone, under ``inference_mode``."""

    def __init__(
        self, decoder: Decoder, cache: KVCache, monitored_layers: Seq[int], costs: bool = True
    ) -> None:
        """Takes a decoder and its cache. ``costs``: whether token costs can be measured."""
        self._costs = costs
        self.decoder = decoder
        self._cache = cache
        self._device = cache.keys[0].device
        self._monitored = frozenset(monitored_layers)
        self._tables = BlockTables(cache.shape.block_size, self._device)

    def forward(self, batch: Batch) -> ForwardOutput | None:
        """Copies the blocks that a batch needs copied, then feeds its tokens.

        Returns None where no row of the batch wants a token yet.
        """
        if batch.copies:
            self.copy(batch.copies)
        if not (batch.decode or batch.chunks):
            return None
        step = self._pack(batch)
        wanted = None
        if any(self._wants(sequence) for sequence in batch.sequences):
            wanted = Surprisals(batch, self._cache, self._costs)
            step = wanted.ask(step)
        if (lens := self._lens(batch.rows)) is not None:
            step = replace(step, lens=lens)
        found = self.decoder(step)
        if wanted is not None:
            wanted.keep()
        return None if found is None else ForwardOutput(batch.rows, *found, lens=lens)

    def _wants(self, sequence: Sequence) -> bool:
        """Tells whether a sequence wants surprisals of a step's tokens."""
        wanted = sequence.prompt_figures
        return (self._costs and sequence.surprisals is not None) or (
            wanted is not None and not wanted.complete
        )

    def _lens(self, rows: Seq[Sequence]) -> LayerLens | None:
        """Returns the rows of a step that want entropies of layers; of all layers that any of them wants."""
        asked = [(i, s.request.policy.layer_entropy) for i, s in enumerate(rows)]
        wanted = [(i, of_row) for i, of_row in asked if of_row and rows[i].reply.length % of_row.every == 0]
        if not wanted:
            return None
        layers = {layer for _, of_row in wanted for layer in of_row.layers or self._monitored}
        numbers = torch.tensor([i for i, _ in wanted], device=self._device)
        entropy = torch.zeros(len(layers), len(wanted), device=self._device)
        return LayerLens(numbers, tuple(sorted(layers)), entropy)

    def decode_with(self, make: Callable[[], Decoder]) -> None:
        """Takes another decoder from the next step on. The old one is gone before ``make`` is called."""
        del self.decoder
        self.decoder = make()

    def arrange_keys(self, blocks: Seq[int]) -> None:
        """Brings the keys of blocks from the order of their positions into the native decoder's order."""
        arrange_keys(self._cache.keys, blocks)

    def copy(self, copies: Seq[TailCopy]) -> None:
        """Copies part blocks for sequences that were forked."""
        for copy in copies:
            self._cache.copy(copy.source, copy.targets)

    def recover(self) -> None:
        """Forgets the rows of the last step, behind an exception that may have left them half written."""
        self._tables = BlockTables(self._cache.shape.block_size, self._device)

    def clear(self, blocks: Seq[int]) -> None:
        """Zeroes the blocks of a sequence whose numbers went bad."""
        self._cache.clear(blocks)

    def _pack(self, batch: Batch) -> DecoderStep:
        rows, size = batch.rows, self._cache.shape.block_size
        ids: list[int] = []
        positions: list[int] = []
        cache_index: list[int] = []
        chunks: list[PrefillChunk] = []
        for chunk in batch.chunks:
            if not (count := chunk.fed):
                continue
            stop = chunk.start + count
            blocks = chunk.sequence.blocks
            chunks.append(PrefillChunk(count, self._tensor(blocks), stop))
            ids += chunk.sequence.tokens[chunk.start : stop]
            positions += range(chunk.start, stop)
            cache_index += [blocks[p // size] * size + p % size for p in range(chunk.start, stop)]
        ends: list[int] = []
        for sequence in rows:
            newest = len(sequence.tokens) - 1
            ids.append(sequence.tokens[newest])
            positions.append(newest)
            cache_index.append(sequence.blocks[newest // size] * size + newest % size)
            ends.append(newest + 1)
        n = len(ids)
        packed = torch.tensor(ids + positions).to(self._device, non_blocking=True)
        # the kernels read 32-bit indices
        packed32 = self._tensor(cache_index + ends)
        return DecoderStep(
            ids=packed[:n],
            positions=packed[n:],
            cache_index=packed32[:n],
            keys=self._cache.keys,
            values=self._cache.values,
            chunks=chunks,
            block_table=self._tables.of(rows),
            lengths=packed32[n:],
            rows=len(rows),
            monitored=self._monitored,
        )

    def _tensor(self, numbers: Seq[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32).to(self._device, non_blocking=True)
