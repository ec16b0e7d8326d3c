"""What the scheduler hands to the model runner: the rows and pieces of one step."""

from __future__ import annotations

from dataclasses import dataclass

from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start .. start + length`` of a sequence; ``last`` where they end it."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """True where the chunk ends the sequence's tokens, so that its last one gives logits."""
        return self.start + self.length == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class TailCopy:
    """The page ``source``, not full yet, is to be copied into ``targets`` before the next forward."""

    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: sequences that feed one token each, and pieces of those whose keys are not computed.

    ``preempted``: sequences that gave their pages up for this step. ``looked_up``: requests that begin
    with it and whose prompts were looked up in the cache. ``copies`` come before its forward.
    """

    decode: tuple[Sequence, ...]
    chunks: tuple[Chunk, ...]
    preempted: tuple[Sequence, ...] = ()
    looked_up: tuple[Sequence, ...] = ()
    copies: tuple[TailCopy, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens the step feeds."""
        return len(self.decode) + sum(chunk.length for chunk in self.chunks)

    @property
    def rows(self) -> tuple[Sequence, ...]:
        """Those that get logits, until they take a token: decode rows, then chunks that end a sequence."""
        return (*self.decode, *(chunk.sequence for chunk in self.chunks if chunk.last))

    @property
    def sequences(self) -> list[Sequence]:
        """Everyone in it."""
        return [*self.decode, *(chunk.sequence for chunk in self.chunks)]
