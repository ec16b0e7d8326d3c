"""Where a reply stands in its grammar: the tokens that may come next, and whether it has come to its end."""

from __future__ import annotations

from typing import Final

from llguidance import LLMatcher

from .errors import in_words

_FAILED: Final = "the grammar of this reply failed: "


class GrammarState:
    """The state of a reply's grammar. Its owner must give it every token of the reply, in order.

    ``error``: why the grammar cannot go on, None where it can.
    """

    __slots__ = ("_matcher", "error")

    def __init__(self, matcher: LLMatcher | None, error: str | None = None) -> None:
        """Takes a matcher over, which the caller must leave alone then; None where ``error`` says why."""
        self._matcher = matcher
        self.error = error

    def take(self, token_id: int) -> bool:
        """Goes on behind a token. Returns whether the grammar is at its end, so that nothing follows."""
        matcher = self._matcher
        if matcher is None or self.error is not None:
            return False
        matcher.consume_token(token_id)
        return matcher.is_stopped() and not self._failed(matcher)

    def fill(self, address: int, size: int) -> bool:
        """Writes the bits of the tokens that may come next into ``size`` bytes of memory.

        Bit i of an int32 word w, the least significant first, stands for token 32 w + i; an end of sequence
        is among them where the reply may end. Returns False, and sets ``error``, where the grammar cannot go
        on; the memory means nothing then.
        """
        matcher = self._matcher
        if matcher is None or self.error is not None:
            return False
        matcher.unsafe_compute_mask_ptr(address, size)
        return not self._failed(matcher)

    def copy(self) -> GrammarState:
        """Copies the state, for a branch that continues the reply."""
        return GrammarState(None if self._matcher is None else self._matcher.deep_copy(), self.error)

    def _failed(self, matcher: LLMatcher) -> bool:
        if matcher.is_error():
            self.error = _FAILED + in_words(matcher.get_error())
        return self.error is not None
