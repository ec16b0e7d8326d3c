"""The repetition of a reply: how many of its newest tokens stood in it before, in the same order.

A model that begins to repeat itself is sure of every next token of the loop, so entropy cannot tell a loop
from knowledge; the reply itself can. Knows no tensors and no engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from entropick_kernels.loops import native

WINDOW: Final = 1024
"""The newest tokens of a reply that are searched."""
LONGEST: Final = 32
"""The largest length that is told apart: a longer repetition counts as this long."""
_FIRST_SIZE: Final = 64

TokenIds = npt.NDArray[np.int32]


def repeated_suffix_reference(tokens: Iterable[int]) -> int:
    """Counts the tokens of the longest suffix of ``tokens`` that also ends earlier in them, by definition.

    The earlier occurrence may overlap the suffix. Returns 0 where the last token is new, and at most
    LONGEST; only the newest WINDOW tokens are looked at.
    """
    seen = list(tokens)[-WINDOW:]
    for length in range(min(LONGEST, len(seen) - 1), 0, -1):
        suffix = seen[len(seen) - length :]
        if any(seen[at : at + length] == suffix for at in range(len(seen) - length)):
            return length
    return 0


@native()
def _repeated_suffix(tokens: TokenIds, begin: int, end: int) -> int:
    """Counts the tokens of the longest repeated suffix of ``tokens[begin:end]``."""
    longest, last = 0, tokens[end - 1]
    for at in range(end - 2, begin - 1, -1):
        if tokens[at] != last:
            continue
        # an earlier end can only win with a match that is longer than the longest so far
        room = min(at - begin + 1, LONGEST)
        if room <= longest:
            break
        length = 1
        while length < room and tokens[at - length] == tokens[end - 1 - length]:
            length += 1
        longest = max(longest, length)
    return longest


class TokenHistory:
    """The newest tokens of a reply, at most 2 x WINDOW of them, with the repetition at its end."""

    __slots__ = ("_end", "_tokens", "repeated")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        """Begins with the tokens of a reply so far."""
        known = np.fromiter(tokens, dtype=np.int32)[-WINDOW:]
        self._tokens: TokenIds = np.zeros(max(_FIRST_SIZE, 2 * len(known)), dtype=np.int32)
        self._tokens[: len(known)] = known
        self._end = len(known)
        self.repeated = self._measured()
        """tokens of the longest suffix that stood in the reply before, as repeated_suffix_reference"""

    def append(self, token_id: int) -> None:
        """Appends a token and measures the repetition at the new end."""
        if self._end == len(self._tokens):
            self._make_room()
        self._tokens[self._end] = token_id
        self._end += 1
        self.repeated = self._measured()

    @property
    def newest(self) -> tuple[int, ...]:
        """Returns the newest tokens, at most WINDOW: the tokens that the repetition depends on."""
        return tuple(self._tokens[max(0, self._end - WINDOW) : self._end].tolist())

    def copy(self) -> TokenHistory:
        """Copies the history, for a branch that continues its reply."""
        copied: TokenHistory = TokenHistory.__new__(TokenHistory)
        copied._tokens, copied._end, copied.repeated = self._tokens.copy(), self._end, self.repeated
        return copied

    def __eq__(self, other: object) -> bool:
        """Tells whether two histories hold the same newest tokens."""
        return isinstance(other, TokenHistory) and self.newest == other.newest

    __hash__: Any = None

    def _measured(self) -> int:
        begin = max(0, self._end - WINDOW)
        return int(_repeated_suffix(self._tokens, begin, self._end)) if self._end - begin > 1 else 0

    def _make_room(self) -> None:
        """Doubles the array, or moves the newest tokens to the front of a full-grown array."""
        if len(self._tokens) < 2 * WINDOW:
            larger = np.zeros(min(2 * len(self._tokens), 2 * WINDOW), dtype=np.int32)
            larger[: self._end] = self._tokens[: self._end]
            self._tokens = larger
        else:
            self._tokens[:WINDOW] = self._tokens[self._end - WINDOW : self._end].copy()
            self._end = WINDOW
