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

from entropick_kernels.attention_stats import HeadStats, layer_signals

from .attention import AttentionContext, PromptPiece
from .cache import KVCache
from .fused import FusedDecoder
from .scheduler import Batch
from .sequence import Sequence


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
        fused: FusedDecoder | None = None,
    ) -> None:
        """``fused``: a shorter way through the same model, where there is one."""
        self._model = model
        self._fused = fused
        self._cache = cache
        self._device = cache.keys[0].device
        self._monitored = frozenset(monitored_layers)
        self._rows: tuple[Sequence, ...] = ()
        self._full_table = torch.zeros(0, 1, dtype=torch.int32)
        self._table = self._full_table

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._device

    def forward(self, batch: Batch) -> Measured | None:
        """Feed a batch; None where no row of it wants a token yet."""
        ending = tuple(chunk for chunk in batch.chunks if chunk.last)
        rows = (*batch.decode, *(chunk.sequence for chunk in ending))
        size = self._cache.shape.page_size
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        places: list[tuple[int, int, Sequence, int]] = []
        for chunk in batch.chunks:
            # the last token of a prompt is a row: its attention is measured like a decode row's
            count = chunk.length - 1 if chunk.last else chunk.length
            if not count:
                continue
            stop = chunk.start + count
            pages = chunk.sequence.pages
            places.append((len(ids), count, chunk.sequence, stop))
            ids += chunk.sequence.request.prompt_token_ids[chunk.start : stop]
            positions += range(chunk.start, stop)
            slots += [pages[p // size] * size + p % size for p in range(chunk.start, stop)]
        ends: list[int] = []
        for s in rows:
            # a decode row feeds its newest token; a prompt that ends now feeds the prompt's last one
            at = max(s.computed, s.prompt_length - 1)
            ids.append(s.last if s.generated else s.request.prompt_token_ids[-1])
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
            page_table=self._page_table(rows, ends),
            lengths=places32[n:],
            rows=len(rows),
            monitored=self._monitored,
            stats=[],
        )
        logits = self._logits(packed[:n], packed[n:], context)
        if logits is None:
            return None
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

    def clear(self, pages: Seq[int]) -> None:
        """Zero the pages of a sequence whose numbers went bad."""
        self._cache.clear(pages)

    def _pages(self, sequence: Sequence) -> Tensor:
        return torch.tensor(sequence.pages, device=self._device)

    def _page_table(self, rows: tuple[Sequence, ...], ends: Seq[int]) -> Tensor:
        """[B, N] page ids, N just wide enough for the longest row; kept from step to step."""
        if rows != self._rows:
            width = max((len(s.pages) for s in rows), default=1)
            table = [s.pages + [0] * (width - len(s.pages)) for s in rows]
            self._full_table = torch.tensor(table, dtype=torch.int32).view(len(rows), width).to(self._device)
            self._table = self._full_table[:, :0]
            self._rows = rows
        width = max((-(-end // self._cache.shape.page_size) for end in ends), default=1)
        if self._table.shape[1] != width:
            self._table = self._full_table[:, :width].contiguous()
        return self._table
