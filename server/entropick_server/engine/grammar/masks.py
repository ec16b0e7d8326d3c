"""The masks of a step: the tokens that the grammars of its rows allow, built beside the engine's thread.

Most states take some microseconds, less than a thread's turn costs; a step after a slow one is built
in a thread of its own while the model runs. llguidance lets other threads run meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from entropick_kernels.adjust.arrays import WORD_BITS, Masks

from .state import GrammarState

_SLOW: Final = 0.3e-3
"""seconds that the masks of a step may take in the engine's thread"""


class StepMasks:
    """The builder of the masks of an engine's steps.

    Between :meth:`begin` and :meth:`take` nobody may change the states.
    """

    def __init__(self, vocab_size: int) -> None:
        """Prepares a builder. ``vocab_size``: columns of the logits."""
        self._width = -(-vocab_size // WORD_BITS)
        self._pool: ThreadPoolExecutor | None = None
        self._slow = False
        self._building: tuple[list[tuple[int, GrammarState]], Future[Masks]] | None = None

    def begin(self, states: Sequence[GrammarState | None]) -> None:
        """Begins to build the masks of a step, a state for each row, where the step before was slow."""
        self._wait()
        if self._slow and (found := _with_grammar(states)):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "entropick-masks")
            self._building = found, self._pool.submit(self._build, found)

    def take(self, states: Sequence[GrammarState | None]) -> Masks | None:
        """Returns the masks of a step, a state for each row; None where no row follows a grammar.

        A state that cannot go on allows every token, and says why (its ``error``).
        """
        found = _with_grammar(states)
        building, self._building = self._building, None
        if building is not None and building[0] == found:
            return building[1].result()
        if building is not None:
            building[1].result()
        return self._build(found) if found else None

    def _wait(self) -> None:
        """Waits for masks that nobody took: the step before failed."""
        if self._building is not None:
            self._building[1].exception()
            self._building = None

    def _build(self, states: Sequence[tuple[int, GrammarState]]) -> Masks:
        began = time.perf_counter()
        words = np.empty((len(states), self._width), np.int32)
        address, size = words.ctypes.data, words.itemsize * self._width
        for number, (_, state) in enumerate(states):
            if not state.fill(address + number * size, size):
                words[number] = -1
        self._slow = time.perf_counter() - began > _SLOW
        return Masks(np.array([row for row, _ in states], np.int64), words)


def _with_grammar(states: Sequence[GrammarState | None]) -> list[tuple[int, GrammarState]]:
    return [(row, state) for row, state in enumerate(states) if state is not None]
