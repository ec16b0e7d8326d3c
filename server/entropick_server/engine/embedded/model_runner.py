"""One forward of a step: a batch of the scheduler in, logits and attention statistics of its rows out.

The rows of a step are its decode rows, then the prompts that end in it, in that order; in the packed token
row they come last, behind the other tokens of the prompts, so that "the last B" are those with logits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from entropick_kernels.attention_stats import HeadStats, Implementation, layer_signals

from .attention import AttentionContext, PromptPiece
from .batch import Batch
from .cache import KVCache
from .native_decoder import NativeLlamaDecoder
from .page_tables import PageTables
from .sequence import Sequence
from .torch_decoder import TorchDecoder


@dataclass(frozen=True, slots=True)
class Measured:
    """What a forward gives for its B rows.

    ``logits`` [B, V]; ``heads``: each field [L, B, H] over the monitored layers; ``by_layer`` [L, B, 6] and
    its mean over layers ``signals`` [B, 6], in the order of ATTENTION_SIGNALS.
    """

    rows: tuple[Sequence, ...]
    logits: Tensor
    heads: HeadStats
    by_layer: Tensor
    signals: Tensor


class ModelRunner:
    """Owns the model and the cache; called by the engine thread alone, under ``inference_mode``."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: KVCache,
        monitored_layers: Seq[int],
        fused: TorchDecoder | NativeLlamaDecoder | None = None,
        kernels: Implementation | None = None,
    ) -> None:
        """``fused``: a shorter way through the same model, where there is one; ``kernels``: None for the
        fastest."""
        self._kernels = kernels
        self._model = model
        self._fused = fused
        self._cache = cache
        self._device = cache.keys[0].device
        self._monitored = frozenset(monitored_layers)
        self._tables = PageTables(cache.shape.page_size, self._device)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._device

    def forward(self, batch: Batch) -> Measured | None:
        """Feed a batch; None where no row of it wants a token yet."""
        rows = batch.rows
        size = self._cache.shape.page_size
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        places: list[tuple[int, int, Sequence, int]] = []
        for chunk in batch.chunks:
            # a sequence's last token is a row: its attention is measured like a decode row's
            count = chunk.length - 1 if chunk.last else chunk.length
            if not count:
                continue
            stop = chunk.start + count
            pages = chunk.sequence.pages
            places.append((len(ids), count, chunk.sequence, stop))
            ids += chunk.sequence.tokens[chunk.start : stop]
            positions += range(chunk.start, stop)
            slots += [pages[p // size] * size + p % size for p in range(chunk.start, stop)]
        ends: list[int] = []
        for s in rows:
            at = len(s.tokens) - 1
            ids.append(s.tokens[at])
            positions.append(at)
            slots.append(s.pages[at // size] * size + at % size)
            ends.append(at + 1)
        n = len(ids)
        packed = torch.tensor(ids + positions).to(self._device, non_blocking=True)
        # the kernels read 32-bit places
        places32 = torch.tensor(slots + ends, dtype=torch.int32).to(self._device, non_blocking=True)
        context = AttentionContext(
            keys=self._cache.keys,
            values=self._cache.values,
            slots=places32[:n],
            pieces=[PromptPiece(at, count, self._pages(s), stop) for at, count, s, stop in places],
            page_table=self._tables.of(rows),
            lengths=places32[n:],
            rows=len(rows),
            monitored=self._monitored,
            stats=[],
            implementation=self._kernels,
        )
        logits = self._logits(packed[:n], packed[n:], context)
        if logits is None:
            return None
        if context.measured is not None:
            return Measured(rows, *context.measured)
        heads = HeadStats(*(torch.stack(figures) for figures in zip(*context.stats, strict=True)))
        by_layer = layer_signals(heads)
        return Measured(rows, logits, heads, by_layer, by_layer.mean(0))

    def _logits(self, ids: Tensor, positions: Tensor, context: AttentionContext) -> Tensor | None:
        """Logits [B, V] of the rows, None where there are none."""
        if self._fused is not None:
            return self._fused(ids, positions, context)
        logits: Tensor = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=context.rows or 1,
            entropick=context,
        ).logits[0]
        return logits if context.rows else None

    def copy(self, source: int, targets: Seq[int]) -> None:
        """Copy a page for sequences that were forked."""
        self._cache.copy(source, targets)

    def clear(self, pages: Seq[int]) -> None:
        """Zero the pages of a sequence whose numbers went bad."""
        self._cache.clear(pages)

    def _pages(self, sequence: Sequence) -> Tensor:
        return torch.tensor(sequence.pages, dtype=torch.int32, device=self._device)
