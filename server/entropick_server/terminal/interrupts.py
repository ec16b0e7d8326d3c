"""Ctrl-C while a reply streams."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def hear_interrupts() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt where the process was started with it ignored.

    A shell without job control starts its background processes so; a person who types means it all the same.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Interrupts:
    """The interrupts (SIGINT) of a stretch of work.

    An exception that a signal raises can be lost: Python drops it where it strikes in a destructor. The flag
    stays, so a loop that looks at it stops at its next turn.
    """

    def __init__(self) -> None:
        self.asked = False
        """whether an interrupt came"""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes interrupts within the block, which raise KeyboardInterrupt there as always."""
        self.asked = False
        if threading.current_thread() is not threading.main_thread():
            # signals reach the main thread alone
            yield
            return
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raises KeyboardInterrupt where an interrupt came."""
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt
