"""The batch of one step, which the scheduler hands to the model runner."""

from __future__ import annotations

from dataclasses import dataclass

from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """A prefill chunk: tokens ``start .. start + length`` of a sequence."""

    sequence: Sequence
    start: int
    length: int
    last: bool
    """whether the chunk ends the sequence's tokens, so that its last token gives logits"""

    @property
    def fed(self) -> int:
        """Counts the tokens that the chunk feeds behind each other.

        A sequence's last token is a row: its attention is measured like that of a decoding sequence.
        """
        return self.length - 1 if self.last else self.length


@dataclass(frozen=True, slots=True)
class TailCopy:
    """A block that is not full yet, ``source``, to be copied into ``targets`` before the next forward."""

    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """A step: the sequences that decode, each with a single token, and the prefill chunks of the others.

    ``rows``: the sequences that get logits, those that decode, then those that a chunk ends. ``preempted``:
    sequences that gave their blocks up for this step. ``looked_up``: requests that begin with it and whose
    prompts were looked up in the cache. ``copies`` come before its forward.
    """

    decode: tuple[Sequence, ...]
    chunks: tuple[Chunk, ...]
    rows: tuple[Sequence, ...] = ()
    preempted: tuple[Sequence, ...] = ()
    looked_up: tuple[Sequence, ...] = ()
    copies: tuple[TailCopy, ...] = ()

    @property
    def tokens(self) -> int:
        """Counts the tokens that the step feeds."""
        return len(self.decode) + sum(chunk.length for chunk in self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        """Lists the sequences of the step."""
        return [*self.decode, *(chunk.sequence for chunk in self.chunks)]
