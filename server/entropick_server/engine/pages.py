"""The ledger of KV cache pages: which are free. Page 0 is never handed out.

Knows nothing of tensors. Page 0 stays empty so that unused places of a page table have a page to name.
"""

from __future__ import annotations

from collections.abc import Iterable


class PagePool:
    """Free pages as a stack: a page that was freed last is used first, while it is still in the caches."""

    def __init__(self, total: int) -> None:
        """``total``: pages that can be handed out, numbered 1 .. total."""
        if total < 1:
            raise ValueError(f"a page pool needs at least one page, got {total}")
        self._total = total
        self._free = list(range(total, 0, -1))
        self._is_free = bytearray([0] + [1] * total)

    @property
    def total(self) -> int:
        """Pages that exist."""
        return self._total

    @property
    def used(self) -> int:
        """Pages that are handed out."""
        return self._total - len(self._free)

    @property
    def available(self) -> int:
        """Pages that can still be handed out."""
        return len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """``count`` page ids, or None (and nothing taken) where there are not so many."""
        if count > len(self._free):
            return None
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._is_free[page] = 0
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Take pages back. Raises ValueError for a page that is not handed out: it would be used twice."""
        for page in pages:
            if not 1 <= page <= self._total or self._is_free[page]:
                raise ValueError(f"page {page} is not handed out")
            self._is_free[page] = 1
            self._free.append(page)
