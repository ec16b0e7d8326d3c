"""Which sequences run in the next step: continuous batching with packed, chunked prefill.

Pure Python, no tensors. A sequence is admitted only when the pages for its prompt and all its tokens are
there, so nothing that was admitted ever waits for memory or is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .base import QueueFullError
from .pages import PagePool
from .sequence import Sequence
from .types import EngineLoad


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start .. start + length`` of a prompt; ``last`` where they end it."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """True where the chunk ends the prompt, so that its last token gives logits."""
        return self.start + self.length == self.sequence.prompt_length


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: sequences that feed one token each, and pieces of prompts."""

    decode: tuple[Sequence, ...]
    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Tokens the step feeds."""
        return len(self.decode) + sum(chunk.length for chunk in self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        """Everyone in it."""
        return [*self.decode, *(chunk.sequence for chunk in self.chunks)]


class Scheduler:
    """A first-in-first-out queue before a running set of at most ``max_num_seqs`` sequences.

    Decode rows go first and always all of them; what ``max_num_batched_tokens`` leaves goes to prompts, the
    oldest first.
    """

    def __init__(
        self, pool: PagePool, page_size: int, max_num_seqs: int, max_queue: int, max_num_batched_tokens: int
    ) -> None:
        if max_num_batched_tokens <= max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must exceed max_num_seqs "
                f"({max_num_seqs}), or prompts would wait until sequences end"
            )
        self._pool = pool
        self._page_size = page_size
        self._max_queue = max_queue
        self._budget = max_num_batched_tokens
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []
        self._decoding: tuple[Sequence, ...] = ()
        self._slots = list(range(max_num_seqs - 1, -1, -1))
        self._by_id: dict[str, Sequence] = {}

    @property
    def idle(self) -> bool:
        """True where nothing waits and nothing runs."""
        return not self._by_id

    def load(self) -> EngineLoad:
        """The gauges of this moment."""
        running = len(self._prefilling) + len(self._decoding)
        return EngineLoad(running, len(self._waiting), self._pool.used, self._pool.total)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises QueueFullError where ``max_queue`` others wait beside those that free slots will take, and
        ValueError for a request id that is in use or a sequence that could never be admitted.
        """
        request_id = sequence.request.request_id
        if request_id in self._by_id:
            raise ValueError(f"request id {request_id!r} is in use")
        if self._pages_of(sequence) > self._pool.total:
            raise ValueError(
                f"{sequence.limit} tokens need {self._pages_of(sequence)} pages of the KV cache, which has "
                f"{self._pool.total}"
            )
        if len(self._waiting) >= self._max_queue + len(self._slots):
            raise QueueFullError(f"the queue is full (max_queue {self._max_queue}); try again later")
        self._by_id[request_id] = sequence
        self._waiting.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The sequence of a request that has not ended."""
        return self._by_id.get(request_id)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is; its pages and its slot are free at once."""
        if self._by_id.pop(sequence.request.request_id, None) is None:
            return
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        else:
            self._decoding = tuple(s for s in self._decoding if s is not sequence)
        self._pool.free(sequence.pages)
        self._slots.append(sequence.slot)
        sequence.pages = []

    def sequences(self) -> list[Sequence]:
        """Everything that has not ended, waiting or running."""
        return list(self._by_id.values())

    def schedule(self) -> Batch:
        """The next step. The caller feeds it and then calls :meth:`advance`."""
        decode = self._decoding
        budget = self._budget - len(decode)
        chunks: list[Chunk] = []
        for sequence in self._prefilling:
            if budget <= 0:
                break
            budget -= self._chunk(sequence, budget, chunks)
        while budget > 0 and self._waiting and self._slots:
            pages = self._pool.allocate(self._pages_of(self._waiting[0]))
            if pages is None:
                break
            sequence = self._waiting.popleft()
            sequence.pages, sequence.slot = pages, self._slots.pop()
            self._prefilling.append(sequence)
            budget -= self._chunk(sequence, budget, chunks)
        return Batch(decode, tuple(chunks))

    def advance(self, batch: Batch) -> None:
        """Record that a batch was fed: the keys and values of its tokens are in the cache."""
        for sequence in batch.decode:
            sequence.computed += 1
        ended: list[Sequence] = []
        for chunk in batch.chunks:
            chunk.sequence.computed += chunk.length
            if chunk.last:
                ended.append(chunk.sequence)
        if ended:
            self._prefilling = [s for s in self._prefilling if s.prefilling]
            # behind the others: a row keeps its place from step to step
            self._decoding = (*self._decoding, *ended)

    def _pages_of(self, sequence: Sequence) -> int:
        return -(-sequence.limit // self._page_size)

    @staticmethod
    def _chunk(sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        length = min(budget, sequence.prompt_length - sequence.computed)
        chunks.append(Chunk(sequence, sequence.computed, length))
        return length
