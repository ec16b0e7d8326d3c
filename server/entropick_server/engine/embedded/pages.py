"""The ledger of KV cache pages: how many sequences use each, and which of them hold the keys of known tokens.

Knows nothing of tensors. Page 0 is never handed out: it stays empty so that the unused ends of a page table
have a page to name. Every other page is free, cached (no sequence uses it, but it is known by the digest of
its tokens) or used by as many sequences as it has references.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence


def page_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Names a page by its ``tokens`` and all tokens before them (BLAKE2b, 256 bits).

    ``parent``: the digest of the page before, empty for a sequence's first page. Two sequences whose pages
    carry the same digest have the same keys and values in them, because a causal model's keys depend on the
    tokens before them and on nothing that a request can ask for.
    """
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=32).digest()


class PagePool:
    """Free pages as a stack: a page that was freed last is used first, while it is still in the caches."""

    def __init__(self, total: int) -> None:
        """``total``: pages that can be handed out, numbered 1 .. total."""
        if total < 1:
            raise ValueError(f"a page pool needs at least one page, got {total}")
        self.total = total
        self._free = list(range(total, 0, -1))
        self._references = [0] * (total + 1)
        self._digest: dict[int, bytes] = {}
        self._by_digest: dict[bytes, int] = {}
        # in the order in which they were last used, the longest ago first
        self._cached: dict[int, None] = {}
        self._evictions = 0

    @property
    def free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Pages that nobody uses and that a prompt may find again."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Counts the pages with at least one reference."""
        return self.total - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Pages that can be handed out: the free ones, then the cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def evictions(self) -> int:
        """Cached pages that were handed out as new ones so far."""
        return self._evictions

    def references(self, page: int) -> int:
        """How many sequences use a page."""
        return self._references[page]

    def allocate(self, count: int) -> list[int] | None:
        """``count`` page ids of one reference each, or None (and nothing taken) where there are not so many.

        Free pages first, then the cached pages that were used the longest ago, which are then unknown.
        """
        if count > self.available:
            return None
        pages = []
        for _ in range(count):
            if self._free:
                page = self._free.pop()
            else:
                page = next(iter(self._cached))
                self._evictions += 1
                self._unregister(page)
                del self._cached[page]
            self._references[page] = 1
            pages.append(page)
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """One more reference to each page. Raises ValueError for a page that holds nothing."""
        for page in pages:
            if page in self._cached:
                del self._cached[page]
            elif not self._in_use(page):
                raise ValueError(f"page {page} is not handed out")
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Take back one reference of each page; one without any is cached if it is known, else free.

        The last page counts as used the longest ago: a chain is of use only from its beginning. Raises
        ValueError for a page that is not handed out: it would be used twice.
        """
        for page in reversed(pages):
            if not self._in_use(page):
                raise ValueError(f"page {page} is not handed out")
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._digest:
                self._cached[page] = None
            else:
                self._free.append(page)

    def register(self, page: int, digest: bytes) -> None:
        """Make a full page in use known; nothing happens where another page is known by this digest."""
        if not self._in_use(page):
            raise ValueError(f"page {page} is not handed out")
        if page not in self._digest and digest not in self._by_digest:
            self._digest[page] = digest
            self._by_digest[digest] = page

    def find(self, digest: bytes) -> int | None:
        """The page that is known by a digest."""
        return self._by_digest.get(digest)

    def forget(self, pages: Iterable[int]) -> None:
        """Make pages unknown, whoever uses them."""
        for page in pages:
            self._unregister(page)
            if page in self._cached:
                del self._cached[page]
                self._free.append(page)

    def _unregister(self, page: int) -> None:
        digest = self._digest.pop(page, None)
        if digest is not None:
            del self._by_digest[digest]

    def _in_use(self, page: int) -> bool:
        return 1 <= page <= self.total and self._references[page] > 0
