"""The surprisals of a step's tokens beside their keys, for sequences that want token costs."""

from __future__ import annotations

from dataclasses import replace

import torch

from entropick_kernels.attention_stats.costs import UNKNOWN
from entropick_kernels.decoder import DecoderStep, PromptSurprisals

from .batch import Batch
from .cache import KVCache
from .sequence import Sequence


class Surprisals:
    """The surprisals that a step reads, and the surprisals of prompt tokens that it makes known.

    A drawn token's is known before the step that feeds it. A prompt token's comes with the logits of the
    token before it, so it is known behind the step that feeds that one.
    """

    def __init__(self, batch: Batch, cache: KVCache) -> None:
        self._cache = cache
        self._size = cache.shape.block_size
        self._index: list[int] = []
        """where the keys lie that the step feeds"""
        self._bits: list[float] = []
        self._followed: list[tuple[Sequence, int]] = []
        """the prompt tokens whose surprisals the step makes known: sequence and position"""
        self._tokens: list[int] = []
        """numbers in the step of the tokens before them"""
        self._targets: list[int] = []
        first = 0
        for chunk in batch.chunks:
            self._add_chunk(chunk.sequence, chunk.start, chunk.fed, first)
            first += chunk.fed
        for sequence in batch.rows:
            self._add(sequence, len(sequence.tokens) - 1)
        self._wants = any(sequence.surprisals is not None for sequence in batch.rows)
        self._prompt: PromptSurprisals | None = None

    def ask(self, step: DecoderStep) -> DecoderStep:
        """Writes the surprisals that are known beside the keys, and asks the decoder for the others."""
        self._write(self._index, self._bits)
        if self._tokens:
            targets = torch.tensor(self._targets)
            bits = torch.full((len(targets),), UNKNOWN)
            self._prompt = PromptSurprisals(torch.tensor(self._tokens), targets, bits)
        surprisals = self._cache.surprisals if self._wants else None
        return replace(step, surprisals=surprisals, prompt=self._prompt)

    def keep(self) -> None:
        """Keeps the surprisals that the step made known."""
        if self._prompt is None:
            return
        index: list[int] = []
        found: list[float] = []
        for (sequence, at), bits in zip(self._followed, self._prompt.bits.tolist(), strict=True):
            if sequence.surprisals is not None:
                sequence.surprisals[at] = bits
            # its key is there, or will be: feeding it writes the same number
            index.append(self._place(sequence, at))
            found.append(bits)
        self._write(index, found)

    def _add_chunk(self, sequence: Sequence, start: int, count: int, first: int) -> None:
        known = sequence.surprisals
        if known is None:
            return
        for i in range(count):
            at = start + i
            self._add(sequence, at)
            if not known[at + 1] >= 0:
                self._followed.append((sequence, at + 1))
                self._tokens.append(first + i)
                self._targets.append(sequence.tokens[at + 1])

    def _add(self, sequence: Sequence, at: int) -> None:
        if sequence.surprisals is not None:
            self._index.append(self._place(sequence, at))
            self._bits.append(sequence.surprisals[at])

    def _place(self, sequence: Sequence, at: int) -> int:
        return sequence.blocks[at // self._size] * self._size + at % self._size

    def _write(self, index: list[int], bits: list[float]) -> None:
        self._cache.write_surprisals(index, bits)
