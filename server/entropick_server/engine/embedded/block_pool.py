"""The ledger of KV cache blocks: their users, and the digests by which known blocks are found again.

Knows nothing of tensors. Block 0 is never handed out: it stays empty so that the unused ends of a block table
have a block to name. Every other block is free, cached (no sequence uses it, but it is known by the digest of
its tokens) or used by as many sequences as it has references.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence


def block_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Names a block by its ``tokens`` and all tokens before them (BLAKE2b, 256 bits).

    ``parent``: the digest of the block before, empty for a sequence's first block. Two sequences whose blocks
    carry the same digest have the same keys and values in them, because a causal model's keys depend on the
    tokens before them and on nothing that a request can ask for.
    """
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=32).digest()


class BlockPool:
    """The blocks of the cache. Free blocks are a stack: the block that was freed last is used first, while it
    is still in the processor's caches.
    """

    def __init__(self, total: int) -> None:
        """Makes a pool of ``total`` free blocks, numbered 1 ..

        total. Raises ValueError where there is none.
        """
        if total < 1:
            raise ValueError(f"a block pool needs at least one block, got {total}")
        self.total = total
        self._free = list(range(total, 0, -1))
        self._references = [0] * (total + 1)
        self._digest: dict[int, bytes] = {}
        self._by_digest: dict[bytes, int] = {}
        # in the order in which they were last used, the longest ago first
        self._cached: dict[int, None] = {}
        self._evictions = 0
        self.used = 0
        """blocks with at least one reference"""

    @property
    def free(self) -> int:
        """Counts the blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Counts the blocks that no sequence uses and that a prompt may find again."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Counts the blocks that can be handed out: free blocks, then cached blocks."""
        return len(self._free) + len(self._cached)

    @property
    def evictions(self) -> int:
        """Counts the cached blocks that were handed out as new blocks so far."""
        return self._evictions

    def filled(self) -> list[int]:
        """Returns the blocks that hold something: used or cached."""
        return [b for b in range(1, self.total + 1) if self._references[b] or b in self._cached]

    def references(self, block: int) -> int:
        """Counts the sequences that use a block."""
        return self._references[block]

    def allocate(self, count: int) -> list[int] | None:
        """Hands out ``count`` blocks with a single reference each. Returns None, and takes nothing, for too
        many.

        Free blocks first, then the cached blocks that were used the longest ago, which are then unknown.
        """
        if count > self.available:
            return None
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block = next(iter(self._cached))
                self._evictions += 1
                self._unregister(block)
                del self._cached[block]
            self._references[block] = 1
            self.used += 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a reference to each block. Raises ValueError for a block that holds nothing."""
        for block in blocks:
            if block in self._cached:
                del self._cached[block]
                self.used += 1
            elif not self._in_use(block):
                raise ValueError(f"block {block} is not handed out")
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Takes back a reference of each block; a block without references is cached if it is known, else
        free.

        The last block counts as used the longest ago: a chain is of use only from its beginning. Raises
        ValueError for a block that is not handed out: it would be used twice.
        """
        for block in reversed(blocks):
            if not self._in_use(block):
                raise ValueError(f"block {block} is not handed out")
            self._references[block] -= 1
            if self._references[block]:
                continue
            self.used -= 1
            if block in self._digest:
                self._cached[block] = None
            else:
                self._free.append(block)

    def register(self, block: int, digest: bytes) -> None:
        """Makes a full block in use known. Does nothing where another block is known by this digest."""
        if not self._in_use(block):
            raise ValueError(f"block {block} is not handed out")
        if block not in self._digest and digest not in self._by_digest:
            self._digest[block] = digest
            self._by_digest[digest] = block

    def find(self, digest: bytes) -> int | None:
        """Finds the block that is known by a digest. Returns None where there is none."""
        return self._by_digest.get(digest)

    def forget(self, blocks: Iterable[int]) -> None:
        """Makes blocks unknown, also blocks in use."""
        for block in blocks:
            self._unregister(block)
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def _unregister(self, block: int) -> None:
        digest = self._digest.pop(block, None)
        if digest is not None:
            del self._by_digest[digest]

    def _in_use(self, block: int) -> bool:
        return 1 <= block <= self.total and self._references[block] > 0
