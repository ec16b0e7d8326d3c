"""Elaboration pull: whether a reply's genuineness falls from its beginning to its end. A state a reply."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

from .reference import PULL_WINDOW, Pull


@dataclass(slots=True)
class ElaborationPull:
    """The first and the last scores of a reply, from which its pull is known after every step.

    Equal to :func:`.reference.elaboration_pull` of all scores so far.
    """

    window: int = PULL_WINDOW
    _first: list[float] = field(default_factory=list)
    _last: deque[float] = field(default_factory=deque)

    def add(self, score: float) -> None:
        """Takes the score of a step, NaN where the step has none: then nothing changes."""
        if math.isnan(score):
            return
        if len(self._first) < self.window:
            self._first.append(score)
        self._last.append(score)
        if len(self._last) > self.window:
            self._last.popleft()

    @property
    def now(self) -> Pull | None:
        """Returns the pull so far; None while there are fewer scores than ``window``."""
        if len(self._first) < self.window:
            return None
        start, end = (math.fsum(scores) / self.window for scores in (self._first, self._last))
        return Pull(start, end, end - start)

    def copy(self) -> ElaborationPull:
        """Copies the state, for a branch that continues the reply."""
        return replace(self, _first=self._first.copy(), _last=self._last.copy())
