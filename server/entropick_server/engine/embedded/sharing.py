"""What a sequence need not compute: full pages known by their tokens, or all of a prompt that runs already.

No tensors. The pages of equal beginnings are found through their digests. Choices of one prompt also fork
from each other: whichever of them has the prompt in its pages shares the full ones, and its part page is
copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from .families import Families
from .pages import PagePool
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Beginning:
    """Keys of a sequence's first ``tokens``: in full pages to share, the rest to be copied from ``part``."""

    pages: list[int]
    tokens: int
    part: int | None = None
    forked: bool = False
    """the prompt came from another choice, nothing was looked up"""


class Sharing:
    """Looks for the longest beginning, without taking anything."""

    def __init__(self, pool: PagePool, page_size: int, families: Families, caching: bool) -> None:
        """``caching``: whether pages are looked up by their digests; choices share in any case."""
        self._pool = pool
        self._page_size = page_size
        self._families = families
        self._caching = caching

    def find(self, sequence: Sequence) -> Beginning | None:
        """What a waiting sequence can begin with; None where it should wait for another choice's prompt.

        At least one token is left to compute, because its logits are wanted.
        """
        prompt = min(sequence.prompt_length, len(sequence.tokens) - 1)
        mates = [mate for mate in self._families.mates(sequence) if mate.slot >= 0]
        donor = next((mate for mate in mates if mate.computed >= sequence.prompt_length), None)
        if donor is None and mates:
            # it computes the prompt now: every step brings it nearer to its end
            return None
        pages = self._cached(sequence) if donor is None or prompt < len(sequence.tokens) - 1 else []
        if donor is None or len(pages) * self._page_size >= prompt:
            return Beginning(pages, len(pages) * self._page_size)
        full, rest = divmod(prompt, self._page_size)
        return Beginning(donor.pages[:full], prompt, donor.pages[full] if rest else None, forked=True)

    def _cached(self, sequence: Sequence) -> list[int]:
        """The longest chain of known pages that a sequence begins with, its last token left out."""
        found: list[int] = []
        if self._caching:
            for index in range((len(sequence.tokens) - 1) // self._page_size):
                page = self._pool.find(sequence.digest(index, self._page_size))
                if page is None:
                    break
                found.append(page)
        return found
