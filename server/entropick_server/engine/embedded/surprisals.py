"""The surprisals of a step's tokens: beside their keys for token costs, and of prompts that want them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch

from entropick_kernels.attention_stats.costs import UNKNOWN
from entropick_kernels.decoder import DecoderStep, PromptSurprisals

from ..types import PromptToken
from .batch import Batch
from .cache import KVCache
from .sequence import Sequence

_LN2: Final = math.log(2.0)


class Surprisals:
    """The surprisals that a step reads, and the figures of prompt tokens that it makes known.

    A drawn token's surprisal is known before the step that feeds it. A prompt token's comes with the logits
    of the token before it, so it is known behind the step that feeds that one. The decoder computes those
    logits a few tokens at a time; they are never there for a whole prompt.
    """

    def __init__(self, batch: Batch, cache: KVCache, costs: bool = True) -> None:
        """Collects the tokens of a batch. ``costs``: whether token costs can be measured."""
        self._cache = cache
        self._costs = costs
        self._size = cache.shape.block_size
        self._index: list[int] = []
        """where the keys lie that the step feeds"""
        self._bits: list[float] = []
        self._followed: list[tuple[Sequence, int]] = []
        """the prompt tokens whose figures the step makes known: sequence and position"""
        self._tokens: list[int] = []
        """numbers in the step of the tokens before them"""
        self._targets: list[int] = []
        self._top: int | None = None
        """most probable tokens to find beside each; None: no prompt wants them or ranks"""
        first = 0
        for chunk in batch.chunks:
            self._add_chunk(chunk.sequence, chunk.start, chunk.fed, first)
            first += chunk.fed
        for sequence in batch.rows:
            self._add(sequence, len(sequence.tokens) - 1)
        self._wants = costs and any(sequence.surprisals is not None for sequence in batch.rows)
        self._prompt: PromptSurprisals | None = None

    def ask(self, step: DecoderStep) -> DecoderStep:
        """Writes the surprisals that are known beside the keys, and asks the decoder for the others."""
        self._write(self._index, self._bits)
        if self._tokens:
            targets = torch.tensor(self._targets)
            bits = torch.full((len(targets),), UNKNOWN)
            prompt = PromptSurprisals(torch.tensor(self._tokens), targets, bits)
            if self._top is not None:
                ids = torch.zeros(len(targets), self._top, dtype=torch.int32)
                prompt = prompt._replace(
                    ranks=torch.zeros(len(targets), dtype=torch.int64),
                    top_ids=ids,
                    top_bits=torch.zeros(ids.shape),
                )
            self._prompt = prompt
        surprisals = self._cache.surprisals if self._wants else None
        return replace(step, surprisals=surprisals, prompt=self._prompt)

    def keep(self) -> None:
        """Keeps the figures that the step made known."""
        prompt = self._prompt
        if prompt is None:
            return
        found: list[float] = prompt.bits.tolist()
        if self._costs:
            index: list[int] = []
            bits: list[float] = []
            for (sequence, at), of_token in zip(self._followed, found, strict=True):
                if sequence.surprisals is not None:
                    sequence.surprisals[at] = of_token
                    # its key is there, or will be: feeding it writes the same number
                    index.append(self._place(sequence, at))
                    bits.append(of_token)
            self._write(index, bits)
        if prompt.ranks is not None and prompt.top_ids is not None and prompt.top_bits is not None:
            self._tell(found, prompt.ranks.tolist(), prompt.top_ids.tolist(), prompt.top_bits.tolist())

    def _tell(
        self, bits: list[float], ranks: list[int], top_ids: list[list[int]], top_bits: list[list[float]]
    ) -> None:
        """Keeps the log probabilities and ranks of the prompts that want them."""
        for i, (sequence, at) in enumerate(self._followed):
            wanted = sequence.prompt_figures
            if wanted is None or not wanted.lacks(at):
                continue
            pairs = zip(top_ids[i][: wanted.wanted], top_bits[i], strict=False)
            top = tuple((token_id, -_LN2 * of_token) for token_id, of_token in pairs)
            wanted.found[at - 1] = PromptToken(sequence.tokens[at], -_LN2 * bits[i], ranks[i], top)

    def _add_chunk(self, sequence: Sequence, start: int, count: int, first: int) -> None:
        known = sequence.surprisals if self._costs else None
        told = sequence.prompt_figures
        if known is None and told is None:
            return
        for i in range(count):
            at = start + i
            self._add(sequence, at)
            lacks = told is not None and told.lacks(at + 1)
            if lacks or (known is not None and not known[at + 1] >= 0):
                self._followed.append((sequence, at + 1))
                self._tokens.append(first + i)
                self._targets.append(sequence.tokens[at + 1])
            if lacks and told is not None:
                self._top = max(self._top or 0, told.wanted)

    def _add(self, sequence: Sequence, at: int) -> None:
        if self._costs and sequence.surprisals is not None:
            self._index.append(self._place(sequence, at))
            self._bits.append(sequence.surprisals[at])

    def _place(self, sequence: Sequence, at: int) -> int:
        return sequence.blocks[at // self._size] * self._size + at % self._size

    def _write(self, index: list[int], bits: list[float]) -> None:
        if index:
            self._cache.write_surprisals(index, bits)
