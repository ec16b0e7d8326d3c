"""The tokens of a step that go to prompts, and which prompts they go to."""

from __future__ import annotations

from .batch import Chunk
from .sequence import Sequence


class Prefill:
    """A step's tokens for prompts.

    Where they do not last for all prompts that have begun, the oldest gets half of them, so that every prompt
    gets through, and the others get the rest, the shortest first. A waiting prompt may then begin beside them
    only if it is at most half as long as the rest of each of them: a short prompt need not wait for long
    prompts, and long prompts do not compute a common beginning side by side.
    """

    def __init__(self, begun: list[Sequence], budget: int) -> None:
        """Takes the prompts that have begun, the oldest first; ``budget``: tokens."""
        self._left = {sequence: len(sequence.tokens) - sequence.computed for sequence in begun}
        self._given = dict.fromkeys(begun, 0)
        self._lasts = sum(self._left.values()) < budget
        self.budget = budget
        """tokens that nothing has got yet"""

    @property
    def limit(self) -> int | None:
        """Tells how many tokens of a waiting prompt may be left to compute; None: any number."""
        unfinished = [left for left in self._left.values() if left]
        return None if self._lasts or not unfinished else min(unfinished) // 2

    def begin(self) -> None:
        """Gives the prompts that have begun the tokens that they get before waiting prompts."""
        for sequence, left in self._left.items():
            if not self._lasts:
                self._give(sequence, min(left, -(-self.budget // 2)))
                return
            self._give(sequence, left)

    def add(self, sequence: Sequence) -> None:
        """Gives a prompt that begins now as many tokens as it can use."""
        left = self._left[sequence] = len(sequence.tokens) - sequence.computed
        self._give(sequence, left)

    def chunks(self) -> tuple[Chunk, ...]:
        """Gives the rest away. Returns the chunks of all prompts that got tokens, the oldest prompt first."""
        for sequence in sorted(self._left, key=self._left.__getitem__):
            self._give(sequence, self._left[sequence])
        return tuple(
            Chunk(s, s.computed, given, last=not self._left[s]) for s, given in self._given.items() if given
        )

    def _give(self, sequence: Sequence, tokens: int) -> None:
        tokens = min(tokens, self.budget)
        self.budget -= tokens
        self._left[sequence] -= tokens
        self._given[sequence] = self._given.get(sequence, 0) + tokens
