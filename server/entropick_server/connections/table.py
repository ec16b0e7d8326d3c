"""The open connections by their phases: the overdue are ended, and the weakest gives way to a newcomer."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Final, Protocol

_NOTE_SECONDS: Final = 1.0
"""seconds between two lines about connections"""
_STALLED_SECONDS: Final = 5.0
"""seconds behind which a client that does not read gives way to a new one"""
_log = logging.getLogger(__name__)


class Phase(Enum):
    """The thing that a connection waits for."""

    ARRIVING = "the TLS handshake"
    HEADERS = "the head of a request"
    LINGER = "the rest of a body that nothing reads"
    IDLE = "another request"
    BODY = "the body of a request"
    ANSWER = "the answer, from the server"
    WRITING = "the client, to read"


# the phases in which a client holds a connection with little: of these the oldest gives way first
_STRANGERS: Final = (Phase.ARRIVING, Phase.HEADERS, Phase.LINGER)


class Held(Protocol):
    """A connection, as the table sees it."""

    phase: Phase | None
    """None: not in the table"""
    since: float
    """time.monotonic() of the phase's beginning"""
    began: float
    """time.monotonic() of the newest request's beginning"""

    def expire(self) -> None:
        """Ends the connection, whose phase has lasted too long."""

    def drop(self) -> None:
        """Closes the connection at once; bytes that are buffered are dropped."""


class Notes:
    """The things that happen to connections, counted and told in one line a second at most."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told = -_NOTE_SECONDS

    def count(self, what: str) -> None:
        """Counts a thing that happened."""
        self._counts[what] += 1

    def tell(self, now: float) -> None:
        """Logs the counts, unless the last line is too new."""
        if self._counts and now - self._told >= _NOTE_SECONDS:
            self._told = now
            _log.warning("connections: %s", ", ".join(f"{n} {what}" for what, n in self._counts.items()))
            self._counts.clear()


class ConnectionTable:
    """The open connections, each in its phase, in the order in which they came into it."""

    def __init__(self, limit: int, seconds: dict[Phase, float]) -> None:
        """Makes an empty table of ``limit`` connections; ``seconds``: how long a phase may last."""
        self.notes = Notes()
        self._limit = limit
        self._seconds = seconds
        self._of: dict[Phase, dict[Held, None]] = {phase: {} for phase in Phase}

    def __len__(self) -> int:
        """Returns the number of open connections."""
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[Held]:
        """Goes over the open connections."""
        for held in self._of.values():
            yield from list(held)

    def count(self, phase: Phase) -> int:
        """Counts the connections in a phase."""
        return len(self._of[phase])

    def move(self, held: Held, phase: Phase) -> None:
        """Puts a connection into a phase, in which it begins anew unless it is there."""
        if held.phase is phase:
            return
        self.discard(held)
        held.phase, held.since = phase, time.monotonic()
        self._of[phase][held] = None

    def discard(self, held: Held) -> None:
        """Takes a connection out, if it is in the table."""
        if held.phase is not None:
            del self._of[held.phase][held]
            held.phase = None

    def owed(self, before: float) -> int:
        """Counts the connections whose answer to a request from ``before`` is not delivered."""
        phases = (Phase.ANSWER, Phase.WRITING)
        return sum(held.began <= before for phase in phases for held in self._of[phase])

    def make_room(self) -> bool:
        """Closes a connection if there are as many as there may be. Returns False where none gives way.

        Those give way, the oldest first, that have sent no whole request head; then idle ones, for whose
        clients a closed connection is nothing new; then those whose body is not whole, then clients that
        have stopped reading. A client whose request is being answered never does.
        """
        if len(self) < self._limit:
            return True
        if (held := self._weakest()) is None:
            self.notes.count(f"refused, because all {self._limit} were being answered")
            return False
        self.notes.count(f"closed for a new one, at the limit of {self._limit}")
        self._drop(held)
        return True

    def give_up(self, number: int) -> None:
        """Closes as many connections, of those that can be spared, because descriptors ran out."""
        for _ in range(number):
            if (held := self._weakest()) is None:
                return
            self._drop(held)

    def _drop(self, held: Held) -> None:
        self.discard(held)
        held.drop()

    def _weakest(self) -> Held | None:
        oldest = [held for phase in _STRANGERS if (held := next(iter(self._of[phase]), None)) is not None]
        if oldest:
            return min(oldest, key=lambda held: held.since)
        for phase in (Phase.IDLE, Phase.BODY):
            if (held := next(iter(self._of[phase]), None)) is not None:
                return held
        stalled = next(iter(self._of[Phase.WRITING]), None)
        if stalled is not None and time.monotonic() - stalled.since >= _STALLED_SECONDS:
            return stalled
        return None

    def expire(self, now: float) -> None:
        """Ends the connections whose phase has lasted too long at ``now``, of time.monotonic()."""
        for phase, seconds in self._seconds.items():
            overdue = []
            for held in self._of[phase]:
                if now - held.since < seconds:
                    break
                overdue.append(held)
            for held in overdue:
                held.expire()
        self.notes.tell(now)
