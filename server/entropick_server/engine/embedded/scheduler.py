"""Chooses the batch of the next step: continuous batching with chunked prefill and blocks on demand.

Pure Python, no tensors. A sequence gets its blocks when it needs them. Where there are none left, cached
blocks that no sequence uses go first, then the sequence that was admitted last gives its own back and waits
before all others, to be computed again from its tokens. The sequence that was admitted first always goes on
at least for a turn, and every queued sequence fits into the cache alone, so every request ends."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import EngineGauges
from .batch import Batch, TailCopy
from .block_pool import BlockPool
from .displacement import displaced
from .families import Beginning, Families, Sharing
from .prefill import Prefill
from .sequence import Sequence, family_of
from .turns import Turns


class Scheduler:
    """A queue in which requests take turns, before a running set of at most ``max_num_seqs`` sequences.

    A step takes all decoding sequences; the tokens that ``max_num_batched_tokens`` leaves go to prompts.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefix_caching: bool = True,
    ) -> None:
        """Begins with an empty queue. ``prefix_caching``: whether prompts take blocks that others have
        computed.

        Raises ValueError where decoding sequences alone could fill a step.
        """
        if max_num_batched_tokens <= max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must exceed max_num_seqs "
                f"({max_num_seqs}), or prompts would wait until sequences end"
            )
        self._pool = pool
        self._block_size = block_size
        self._budget = max_num_batched_tokens
        self._prefix_caching = prefix_caching
        self._waiting = Turns()
        self._prefilling: list[Sequence] = []
        self._decoding: tuple[Sequence, ...] = ()
        self._slots = list(range(max_num_seqs - 1, -1, -1))
        self._families = Families()
        self._sharing = Sharing(pool, block_size, self._families, prefix_caching)
        self._admissions = 0

    @property
    def idle(self) -> bool:
        """Tells whether nothing waits and nothing runs; ended sequences may still await a verdict."""
        return not (self._waiting or self._prefilling or self._decoding)

    def gauges(self) -> EngineGauges:
        """Counts the gauges of this moment."""
        running = len(self._prefilling) + len(self._decoding)
        return EngineGauges(running, len(self._waiting), self._pool.used, self._pool.total)

    def add(self, sequence: Sequence) -> None:
        """Queues a request's own sequence.

        Raises ValueError for a request id that is in use and for a sequence that could never be admitted.
        """
        blocks = self._blocks_for(sequence.limit)
        if blocks > self._pool.total:
            raise ValueError(
                f"{sequence.limit} tokens need {blocks} blocks of the KV cache, which has {self._pool.total}"
            )
        self._families.open(sequence)
        self._waiting.add(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """Finds the own sequence of a request that has not ended."""
        return self._families.root(request_id)

    def roots(self) -> list[Sequence]:
        """Lists the own sequences of all requests that have not ended, the oldest first."""
        return [family.root for family in self._families]

    def finish(self, sequence: Sequence) -> None:
        """Forgets a sequence wherever it is, and its branches with it; blocks and slots are free at once."""
        for row in self._families.close(sequence):
            self.suspend(row)

    def suspend(self, sequence: Sequence) -> None:
        """Takes a sequence's blocks and slot away; it stays a sequence of its request."""
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        else:
            self._decoding = tuple(s for s in self._decoding if s is not sequence)
        self._pool.release(sequence.blocks)
        self._slots.append(sequence.slot)
        self._waiting.end(sequence)
        sequence.blocks, sequence.slot = [], -1
        sequence.computed = sequence.registered = 0

    def fork(self, parent: Sequence, count: int) -> tuple[list[Sequence], TailCopy | None]:
        """Makes ``count`` branches that continue a sequence of a request, and run beside it.

        They share its full blocks. A branch for which there is no slot or no block waits before all others,
        like a preempted sequence; so do all branches where ``parent`` is not decoding. Returns the
        branches and the part block that the caller must copy for them before the next forward. Raises
        ValueError for a sequence that has ended.
        """
        branches = self._families.fork(parent, count)
        full, rest = divmod(parent.computed, self._block_size)
        targets: list[int] = []
        behind: list[Sequence] = []
        for branch in branches:
            tail = self._pool.allocate(1 if rest else 0) if self._slots and parent in self._decoding else None
            if tail is None:
                behind.append(branch)
                continue
            self._pool.share(parent.blocks[:full])
            targets += tail
            self._enter(branch, parent.blocks[:full] + tail, parent.computed)
            branch.registered = parent.registered
            self._decoding = (*self._decoding, branch)
        for branch in reversed(behind):
            self._waiting.put_first(branch)
        return branches, TailCopy(parent.blocks[full], tuple(targets)) if targets else None

    def adopt(self, branch: Sequence) -> Sequence:
        """Makes a branch its request's only sequence; ``branch`` may be the request's own.

        All other sequences of the request are forgotten at once. Returns the request's own sequence, which
        goes on as the branch would. Raises ValueError for a sequence of no running request.
        """
        family = family_of(branch)
        root = family.root
        for other in family.branches.copy():
            if other is not branch:
                self.finish(other)
        family.forked = 0  # numbers of branches begin anew behind the adopted tokens
        if branch is root:
            self._resume(root)
            return root
        if root.slot >= 0 and branch.slot >= 0:
            root.slot, branch.slot = branch.slot, root.slot  # the request keeps its slot
        blocks, slot = branch.blocks, branch.slot
        computed, registered, admitted = branch.computed, branch.registered, branch.admitted
        self.suspend(root)
        root.continue_as(branch)
        if slot >= 0:
            root.blocks, root.slot = blocks, slot
            root.computed, root.registered, root.admitted = computed, registered, admitted
            root.turn_began = branch.turn_began
        self._prefilling = [root if s is branch else s for s in self._prefilling]
        self._decoding = tuple(root if s is branch else s for s in self._decoding)
        self._waiting.replace(branch, root)
        branch.blocks, branch.slot = [], -1
        self._families.close(branch)
        self._resume(root)
        return root

    def schedule(self) -> Batch:
        """Chooses the next step. The caller must feed it and then call :meth:`advance`."""
        preempted = self._grow()
        # a step that takes blocks away does not hand them to the queue
        given_up = [] if preempted else self._take_turns()
        decode = self._decoding
        prefill = Prefill(self._prefilling, self._budget - len(decode))
        prefill.begin()
        looked_up: list[Sequence] = []
        copies: dict[int, list[int]] = {}
        while prefill.budget > 0 and not preempted and self._slots:
            found = self._next(prefill.limit)
            if found is None:
                break
            sequence, beginning = found
            fresh = sequence.admitted < 0
            self._admit(sequence, beginning, copies)
            if fresh and not sequence.branch and self._prefix_caching and not beginning.forked:
                sequence.cached = sequence.computed
                looked_up.append(sequence)
            prefill.add(sequence)
        chunks = prefill.chunks()
        copied = tuple(TailCopy(source, tuple(targets)) for source, targets in copies.items())
        rows = (*decode, *(chunk.sequence for chunk in chunks if chunk.last)) if chunks else decode
        return Batch(decode, chunks, rows, (*preempted, *given_up), tuple(looked_up), copied)

    def advance(self, batch: Batch) -> bool:
        """Records that a batch was fed: the keys and values of its tokens are in the cache.

        Returns whether a block of it is full now, so that the caller should :meth:`register` its rows.
        """
        filled = bool(batch.chunks)
        for sequence in batch.decode:
            sequence.computed += 1
            filled |= not sequence.computed % self._block_size
        ended: list[Sequence] = []
        for chunk in batch.chunks:
            chunk.sequence.computed += chunk.length
            if chunk.last:
                ended.append(chunk.sequence)
        if ended:
            self._prefilling = [s for s in self._prefilling if s.computed < len(s.tokens)]
            # behind the others, so that rows keep their order from step to step
            self._decoding = (*self._decoding, *ended)
        return filled

    def register(self, sequences: Iterable[Sequence]) -> None:
        """Offers full blocks for reuse, of sequences for which a token was drawn from finite logits."""
        if not self._prefix_caching:
            return
        size = self._block_size
        for sequence in sequences:
            for block in range(sequence.registered, sequence.computed // size):
                self._pool.register(sequence.blocks[block], sequence.digest(block, size))
                sequence.registered = block + 1

    def poisoned(self, sequence: Sequence) -> list[int]:
        """Makes the blocks of a sequence whose numbers went bad unknown, so that no prompt finds them.

        Returns the blocks that no other sequence uses; the caller must clear them.
        """
        self._pool.forget(sequence.blocks)
        return [block for block in sequence.blocks if self._pool.references(block) == 1]

    def _grow(self) -> list[Sequence]:
        """Gives a block to every decoding sequence that is at the end of its last block.

        Returns the sequences that had to give their blocks up.
        """
        size = self._block_size
        needy = [s for s in self._decoding if s.computed == len(s.blocks) * size]
        preempted: list[Sequence] = []
        for sequence in sorted(needy, key=_admission):
            while sequence.slot >= 0:
                block = self._pool.allocate(1)
                if block is not None:
                    sequence.blocks += block
                    break
                last = max((*self._prefilling, *self._decoding), key=_admission)
                self.suspend(last)
                self._waiting.put_first(last)
                preempted.append(last)
        return preempted

    def _take_turns(self) -> list[Sequence]:
        """Lets a sequence that had its turn give its place to a waiting one. Returns the one that did."""
        if self._slots or not self._waiting or self._waiting.hurried:
            return []
        limit = Prefill(self._prefilling, self._budget - len(self._decoding)).limit
        pair = displaced(self._prefilling, self._decoding, self._waiting, limit)
        if pair is None:
            return []
        runs, waits = pair
        beginning = self._sharing.find(waits)
        if beginning is None or not self._fits(waits, beginning, self._freed_by(runs, beginning)):
            return []
        self.suspend(runs)
        self._waiting.put_back(runs)
        self._waiting.promote(waits)
        return [runs]

    def _next(self, limit: int | None) -> tuple[Sequence, Beginning] | None:
        """Finds the waiting sequence whose turn it is and that can begin now, with what it begins with.

        ``limit``: the tokens that it may have to compute, because of prompts that are not through.
        """
        for sequence in self._waiting.order():
            # a group's next choice waits for the prompt; its answer has its turn when that is there
            beginning = self._sharing.find(sequence)
            if beginning is None:
                continue
            tokens = len(sequence.tokens) - beginning.tokens
            if self._waiting.hurried or limit is None or tokens <= limit:
                if self._fits(sequence, beginning):
                    return sequence, beginning
                limit = tokens // 2 if limit is None else min(limit, tokens // 2)
            if not self._waiting.patient(sequence):
                break
        return None

    def _fits(self, sequence: Sequence, beginning: Beginning, freed: int = 0) -> bool:
        """Tells whether there are blocks for all tokens of a waiting sequence.

        A block for each running sequence stays free: it will need one soon. ``freed``: blocks that a running
        sequence would give up for it.
        """
        found = beginning.blocks
        wanted = self._blocks_for(len(sequence.tokens)) - len(found)
        unused = sum(not self._pool.references(block) for block in found)
        running = len(self._prefilling) + len(self._decoding)
        return self._pool.available + freed - unused >= wanted + running

    def _freed_by(self, sequence: Sequence, beginning: Beginning) -> int:
        """Counts the blocks that no other sequence uses, and that a waiting one would not begin with."""
        kept = set(beginning.blocks)
        return sum(self._pool.references(b) == 1 and b not in kept for b in sequence.blocks)

    def _admit(self, sequence: Sequence, beginning: Beginning, copies: dict[int, list[int]]) -> None:
        """Moves a waiting sequence that fits into the running set.

        A part block that is to be copied is added to ``copies``: source -> targets.
        """
        found = beginning.blocks
        self._pool.share(found)
        blocks = self._pool.allocate(self._blocks_for(len(sequence.tokens)) - len(found))
        if blocks is None:
            raise RuntimeError("the block pool's figures are wrong")
        if beginning.part is not None:
            copies.setdefault(beginning.part, []).append(blocks[0])
        self._enter(sequence, found + blocks, beginning.tokens)
        if sequence.surprisals is not None and beginning.surprisals is not None:
            sequence.surprisals[: len(beginning.surprisals)] = beginning.surprisals
        if sequence.prompt_figures is not None and beginning.figures is not None:
            sequence.prompt_figures.found = beginning.figures.found
        sequence.registered = len(found)
        self._prefilling.append(sequence)

    def _enter(self, sequence: Sequence, blocks: list[int], computed: int) -> None:
        sequence.blocks, sequence.slot, sequence.computed = blocks, self._slots.pop(), computed
        sequence.admitted, sequence.turn_began = self._admissions, len(sequence.tokens)
        self._admissions += 1
        self._waiting.begin(sequence)

    def _resume(self, sequence: Sequence) -> None:
        """Queues a suspended sequence that has not ended for another slot, before all others."""
        if sequence.slot < 0 and sequence.ended is None and sequence not in self._waiting:
            self._waiting.put_first(sequence)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)


def _admission(sequence: Sequence) -> int:
    return sequence.admitted
