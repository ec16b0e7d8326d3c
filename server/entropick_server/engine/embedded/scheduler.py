"""Which rows run in the next step: continuous batching with packed, chunked prefill and pages on demand.

Pure Python, no tensors. A sequence gets its pages when it needs them. Where there are none left, cached pages
that nobody uses go first, then the sequence that was admitted last gives its own back and waits at the front
of the queue, to be computed again from its tokens. The one that was admitted first always goes on, and
whatever is queued fits into the cache alone, so every request ends.
"""

from __future__ import annotations

from collections import deque

from ..base import QueueFullError
from ..types import EngineLoad
from .batch import Batch, Chunk, TailCopy
from .families import Families
from .pages import PagePool
from .sequence import Sequence
from .sharing import Beginning, Sharing


class Scheduler:
    """A first-in-first-out queue before a running set of at most ``max_num_seqs`` sequences.

    Decode rows go first and always all of them; what ``max_num_batched_tokens`` leaves goes to prompts, the
    oldest first.
    """

    def __init__(
        self,
        pool: PagePool,
        page_size: int,
        max_num_seqs: int,
        max_queue: int,
        max_num_batched_tokens: int,
        prefix_caching: bool = True,
    ) -> None:
        """``prefix_caching``: whether a prompt takes pages that others have computed."""
        if max_num_batched_tokens <= max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must exceed max_num_seqs "
                f"({max_num_seqs}), or prompts would wait until sequences end"
            )
        self._pool = pool
        self._page_size = page_size
        self._max_queue = max_queue
        self._budget = max_num_batched_tokens
        self._prefix_caching = prefix_caching
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []
        self._decoding: tuple[Sequence, ...] = ()
        self._slots = list(range(max_num_seqs - 1, -1, -1))
        self._families = Families()
        self._sharing = Sharing(pool, page_size, self._families, prefix_caching)
        self._admissions = 0

    @property
    def idle(self) -> bool:
        """True where nothing waits and nothing runs; rows that have ended may still await a verdict."""
        return not (self._waiting or self._prefilling or self._decoding)

    def load(self) -> EngineLoad:
        """The gauges of this moment."""
        running = len(self._prefilling) + len(self._decoding)
        return EngineLoad(running, len(self._waiting), self._pool.used, self._pool.total)

    def add(self, sequence: Sequence) -> None:
        """Queue a request.

        Raises QueueFullError where ``max_queue`` others wait beside those that free slots will take, and
        ValueError for a request id that is in use or a sequence that could never be admitted. The choices of
        one prompt count as one request, so that they are taken, or refused, together.
        """
        pages = self._pages_for(sequence.limit)
        if pages > self._pool.total:
            raise ValueError(
                f"{sequence.limit} tokens need {pages} pages of the KV cache, which has {self._pool.total}"
            )
        request = sequence.request
        if (
            not self._families.grouped(request.group)
            and self._queue_full()
            and not self.find(request.request_id)
        ):
            raise QueueFullError(f"the queue is full (max_queue {self._max_queue}); try again later")
        self._families.open(sequence)
        self._waiting.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """The sequence of a request that has not ended."""
        return self._families.root(request_id)

    def root_of(self, branch: Sequence) -> Sequence:
        """The own row of a branch's request. Raises ValueError for a row of no running request."""
        return self._families.root_of(branch)

    def branches(self, sequence: Sequence) -> list[Sequence]:
        """The branches that a row's request has beside the request's own row."""
        return self._families.branches(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is, and its branches with it; pages and slots are free at once."""
        for row in self._families.close(sequence):
            self.suspend(row)

    def suspend(self, sequence: Sequence) -> None:
        """Take a row's place, pages and slot away; its request keeps it."""
        if sequence.slot < 0:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            return
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        else:
            self._decoding = tuple(s for s in self._decoding if s is not sequence)
        self._pool.release(sequence.pages)
        self._slots.append(sequence.slot)
        sequence.pages, sequence.slot = [], -1
        sequence.computed = sequence.registered = 0

    def fork(self, parent: Sequence, count: int) -> tuple[list[Sequence], TailCopy | None]:
        """``count`` branches that continue where a row of a request is, and what to copy for them.

        They share its full pages and run beside it. A branch for which there is no slot or no page waits at
        the front of the queue, like a preempted sequence, and so do all where ``parent`` is not decoding.
        Raises ValueError for a row that has ended.
        """
        branches = self._families.fork(parent, count)
        full, rest = divmod(parent.computed, self._page_size)
        targets: list[int] = []
        behind: list[Sequence] = []
        for branch in branches:
            tail = self._pool.allocate(1 if rest else 0) if self._slots and parent in self._decoding else None
            if tail is None:
                behind.append(branch)
                continue
            self._pool.share(parent.pages[:full])
            targets += tail
            self._enter(branch, parent.pages[:full] + tail, parent.computed)
            branch.registered = parent.registered
            self._decoding = (*self._decoding, branch)
        self._waiting.extendleft(reversed(behind))
        return branches, TailCopy(parent.pages[full], tuple(targets)) if targets else None

    def adopt(self, branch: Sequence) -> Sequence:
        """Make a branch its request's only row; the request's sequence, which goes on as the branch would.

        All other rows are free at once. ``branch`` may be the request's own row.
        """
        root = self._families.root_of(branch)
        for row in self._families.branches(root):
            if row is not branch:
                self.finish(row)
        self._families.settle(root)
        if branch is root:
            self._resume(root)
            return root
        if root.slot >= 0 and branch.slot >= 0:
            root.slot, branch.slot = branch.slot, root.slot  # the request keeps its place
        pages, slot = branch.pages, branch.slot
        computed, registered, admitted = branch.computed, branch.registered, branch.admitted
        self.suspend(root)
        root.continue_as(branch)
        if slot >= 0:
            root.pages, root.slot = pages, slot
            root.computed, root.registered, root.admitted = computed, registered, admitted
        self._prefilling = [root if s is branch else s for s in self._prefilling]
        self._decoding = tuple(root if s is branch else s for s in self._decoding)
        self._waiting = deque(root if s is branch else s for s in self._waiting)
        branch.pages, branch.slot = [], -1
        self._families.close(branch)
        self._resume(root)
        return root

    def schedule(self) -> Batch:
        """The next step. The caller feeds it and then calls :meth:`advance`."""
        preempted = self._grow()
        decode = self._decoding
        budget = self._budget - len(decode)
        chunks: list[Chunk] = []
        for sequence in self._prefilling:
            if budget <= 0:
                break
            budget -= self._chunk(sequence, budget, chunks)
        looked_up: list[Sequence] = []
        copies: dict[int, list[int]] = {}
        # a step that takes pages away does not hand them to the queue
        while budget > 0 and not preempted and self._waiting and self._slots:
            sequence = self._waiting[0]
            fresh = sequence.admitted < 0
            # the first of the queue keeps its turn, or requests behind it would take its group's slots
            beginning = self._sharing.find(sequence)
            if beginning is None or not self._admit(sequence, beginning, copies):
                break
            if fresh and not sequence.branch and self._prefix_caching and not beginning.forked:
                sequence.cached = sequence.computed
                looked_up.append(sequence)
            budget -= self._chunk(sequence, budget, chunks)
        copied = tuple(TailCopy(source, tuple(targets)) for source, targets in copies.items())
        return Batch(decode, tuple(chunks), tuple(preempted), tuple(looked_up), copied)

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
            self._prefilling = [s for s in self._prefilling if s.computed < len(s.tokens)]
            # behind the others: a row keeps its place from step to step
            self._decoding = (*self._decoding, *ended)

    def register(self, sequence: Sequence) -> None:
        """Offer a sequence's full pages for reuse, once a token was measured over them and is good."""
        if not self._prefix_caching:
            return
        size = self._page_size
        for page in range(sequence.registered, sequence.computed // size):
            self._pool.register(sequence.pages[page], sequence.digest(page, size))
            sequence.registered = page + 1

    def poisoned(self, sequence: Sequence) -> list[int]:
        """A sequence's numbers went bad: no prompt will find its pages. Those that it alone uses."""
        self._pool.forget(sequence.pages)
        return [page for page in sequence.pages if self._pool.references(page) == 1]

    def _grow(self) -> list[Sequence]:
        """A page for every decode row that is at the end of its last one; who had to give pages up."""
        size = self._page_size
        needy = [s for s in self._decoding if s.computed == len(s.pages) * size]
        preempted: list[Sequence] = []
        for sequence in sorted(needy, key=_admission):
            while sequence.slot >= 0:
                page = self._pool.allocate(1)
                if page is not None:
                    sequence.pages += page
                    break
                last = max((*self._prefilling, *self._decoding), key=_admission)
                self.suspend(last)
                self._waiting.appendleft(last)
                preempted.append(last)
        return preempted

    def _admit(self, sequence: Sequence, beginning: Beginning, copies: dict[int, list[int]]) -> bool:
        """Move the first of the queue into the running set, if there are pages for all its tokens.

        A page for each sequence that runs stays free: it will want one soon. A part page that is to be copied
        is added to ``copies``: source -> targets.
        """
        found = beginning.pages
        wanted = self._pages_for(len(sequence.tokens)) - len(found)
        unused = sum(not self._pool.references(page) for page in found)
        running = len(self._prefilling) + len(self._decoding)
        if self._pool.available - unused < wanted + running:
            return False
        self._pool.share(found)
        pages = self._pool.allocate(wanted)
        if pages is None:
            raise RuntimeError("the page pool's figures are wrong")
        self._waiting.popleft()
        if beginning.part is not None:
            copies.setdefault(beginning.part, []).append(pages[0])
        self._enter(sequence, found + pages, beginning.tokens)
        sequence.registered = len(found)
        self._prefilling.append(sequence)
        return True

    def _queue_full(self) -> bool:
        """Whether as many requests as may wait are in the queue behind the rows that free slots will take."""
        waiting = [s.request for s in self._waiting if not s.branch]
        behind = waiting[len(self._slots) :]
        requests = sum(request.group is None or not request.choice for request in behind)
        return len(waiting) >= len(self._slots) and requests >= self._max_queue

    def _enter(self, sequence: Sequence, pages: list[int], computed: int) -> None:
        sequence.pages, sequence.slot, sequence.computed = pages, self._slots.pop(), computed
        sequence.admitted = self._admissions
        self._admissions += 1

    def _resume(self, sequence: Sequence) -> None:
        """A row that has not ended and was suspended waits for another place, before all others."""
        if sequence.slot < 0 and sequence.ended is None and sequence not in self._waiting:
            self._waiting.appendleft(sequence)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._page_size)

    @staticmethod
    def _chunk(sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        length = min(budget, len(sequence.tokens) - sequence.computed)
        chunks.append(Chunk(sequence, sequence.computed, length))
        return length


def _admission(sequence: Sequence) -> int:
    return sequence.admitted
