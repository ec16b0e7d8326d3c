"""Runs a step that raised again in parts, so that only the sequences for which it raises are lost.

A part may run again: it feeds the same tokens into the same places of the cache, and every draw is keyed by
its seed and position. Knows nothing of tensors but the loss of a device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from ..reply import Drawn
from .batch import Batch, TailCopy
from .sequence import Sequence

_ALONE: Final = 8
"""sequences of a step that fail alone before any part of it worked: then it is not they that fail"""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ran:
    """The outcome of a step: the draws of its rows, and the sequences for which it raised."""

    drawn: dict[Sequence, Drawn] = field(default_factory=dict)
    failed: dict[Sequence, Exception] = field(default_factory=dict)


def isolate(batch: Batch, run: Callable[[Batch], list[Drawn]], error: Exception) -> Ran:
    """Runs a batch that raised ``error`` in halves, and halves of halves, until each part works or is alone.

    ``run``: runs a part and returns what was drawn for its rows. Every other sequence goes into a half, so
    that those of one client, which stand together, are soon apart. Raises ``error`` where no part works: what
    fails then is the engine, not a request. Lets the loss of a device through.
    """
    found = Ran()
    worked = False
    parts = _halves(batch)
    while parts:
        now = parts.pop()
        try:
            drawn = run(now)
        except torch.AcceleratorError:
            raise
        except Exception as reason:  # noqa: BLE001 - whatever a row trips over, only its sequence ends
            _log.debug("%d sequences of the step raise %s", len(now.sequences), type(reason).__name__)
            if len(now.sequences) > 1:
                parts += _halves(now)
                continue
            found.failed[now.sequences[0]] = reason
            if not worked and len(found.failed) >= _ALONE:
                break
        else:
            worked = True
            found.drawn.update(zip(now.rows, drawn, strict=True))
    if not worked:
        raise error
    return found


def part(batch: Batch, sequences: Iterable[Sequence]) -> Batch:
    """Cuts some sequences out of a batch, in its order, with the copies that they need."""
    chosen = set(sequences)
    blocks = {block for sequence in chosen for block in sequence.blocks}
    targets = [(copy.source, tuple(t for t in copy.targets if t in blocks)) for copy in batch.copies]
    return replace(
        batch,
        decode=tuple(s for s in batch.decode if s in chosen),
        chunks=tuple(c for c in batch.chunks if c.sequence in chosen),
        rows=tuple(s for s in batch.rows if s in chosen),
        copies=tuple(TailCopy(source, some) for source, some in targets if some),
    )


def _halves(batch: Batch) -> list[Batch]:
    """Cuts a batch of several sequences in two; none for a batch of one, which is not worth another run."""
    sequences = batch.sequences
    if len(sequences) < 2:
        return []
    return [part(batch, sequences[1::2]), part(batch, sequences[::2])]
