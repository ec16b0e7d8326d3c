"""The waiting sequences, in the order of their turns. Knows nothing of blocks or tensors.

A place among the running sequences goes to the share (the key that opened a request) that holds the fewest,
in it to the HTTP answer that holds the fewest, among these answers to the shortest, and among equals, whose
lengths differ by less than a factor of two, to the answer whose last turn is the longest ago. So a request
for a thousand rows and a request for a single row get the same, a short prompt need not wait for long
prompts, and equals are served in the order in which they came. An answer lets shorter answers pass
``PATIENCE`` times between two turns, not more often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .sequence import Sequence

PATIENCE: Final = 32
"""times that an answer lets shorter answers pass before it has its turn"""


@dataclass(slots=True, eq=False)
class Line:
    """The waiting sequences of an HTTP answer, in their order, and the count of its running sequences."""

    since: int
    """the clock at its last turn, or when it came"""
    rows: deque[Sequence] = field(default_factory=deque)
    running: int = 0
    passed: int = 0
    """turns of answers that came later, since its own last turn"""

    @property
    def place(self) -> tuple[int, bool, int, int]:
        """Returns the key by which lines with waiting sequences are ordered."""
        patient = self.passed < PATIENCE
        return self.running, patient, len(self.rows[0].tokens).bit_length() if patient else 0, self.since


@dataclass(slots=True, eq=False)
class Share:
    """The lines of the answers that count as one client's, and the number of its running sequences."""

    since: int
    lines: dict[str, Line] = field(default_factory=dict)
    running: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Returns the key by which shares are ordered."""
        return self.running, self.since


class Turns:
    """The queue of an engine. Sequences that had to give their place up unasked come before all others."""

    def __init__(self) -> None:
        self._first: deque[Sequence] = deque()
        self._shares: dict[str, Share] = {}
        self._clock = 0
        self._length = 0

    def __len__(self) -> int:
        """Counts the waiting sequences."""
        return len(self._first) + self._length

    def __contains__(self, sequence: Sequence) -> bool:
        """Tells whether a sequence waits."""
        if sequence in self._first:
            return True
        share = self._shares.get(sequence.request.share)
        line = None if share is None else share.lines.get(sequence.request.answer)
        return line is not None and sequence in line.rows

    @property
    def hurried(self) -> bool:
        """Tells whether sequences wait that come before all others."""
        return bool(self._first)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind the others of its answer."""
        self._line(sequence)[1].rows.append(sequence)
        self._length += 1

    def put_back(self, sequence: Sequence) -> None:
        """Queues a sequence that has had a turn; its answer goes behind its equals.

        It comes before the other sequences of its answer.
        """
        _, line = self._line(sequence)
        line.rows.appendleft(sequence)
        line.since = self._tick()
        self._length += 1

    def put_first(self, sequence: Sequence) -> None:
        """Queues a sequence before all others."""
        self._first.appendleft(sequence)

    def promote(self, sequence: Sequence) -> None:
        """Moves a waiting sequence before all others, as if it had its turn now."""
        self._pass(*self._line(sequence))
        self.remove(sequence)
        self.put_first(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out of the queue, if it waits."""
        if sequence in self._first:
            self._first.remove(sequence)
        elif sequence in self:
            self._line(sequence)[1].rows.remove(sequence)
            self._length -= 1
            self._tidy(sequence)

    def replace(self, old: Sequence, new: Sequence) -> None:
        """Puts a sequence in the place of another sequence of the same request, if that waits."""
        rows = self._first
        if old not in rows and old in self:
            rows = self._line(old)[1].rows
        if old in rows:
            rows[rows.index(old)] = new

    def order(self) -> Iterator[Sequence]:
        """Goes through the sequences that may be next: the first of each answer, in the order of turns.

        Where sequences come before all others, that is the first of them alone.
        """
        if self._first:
            yield self._first[0]
            return
        for share in sorted(self._shares.values(), key=lambda share: share.place):
            waiting = [line for line in share.lines.values() if line.rows]
            for line in sorted(waiting, key=lambda line: line.place):
                yield line.rows[0]

    def begin(self, sequence: Sequence) -> None:
        """Counts a sequence as running; it waits no more."""
        share, line = self._line(sequence)
        if sequence in line.rows:
            self._pass(share, line)
        # counted first, or its line would be forgotten with its last row
        share.running += 1
        line.running += 1
        self.remove(sequence)

    def end(self, sequence: Sequence) -> None:
        """Counts a sequence as running no more."""
        share, line = self._line(sequence)
        share.running -= 1
        line.running -= 1
        self._tidy(sequence)

    def held(self, sequence: Sequence) -> tuple[int, int]:
        """Counts the running sequences of a sequence's share, and of its answer."""
        share = self._shares.get(sequence.request.share)
        if share is None:
            return 0, 0
        line = share.lines.get(sequence.request.answer)
        return share.running, 0 if line is None else line.running

    def patient(self, sequence: Sequence) -> bool:
        """Tells whether a waiting sequence lets others pass: its answer has not done so too often."""
        return self._line(sequence)[1].passed < PATIENCE

    def _pass(self, share: Share, line: Line) -> None:
        """Notes that a line has a turn now."""
        for other in share.lines.values():
            if other.rows and other.since < line.since and other.running <= line.running:
                other.passed += 1
        line.passed = 0
        share.since = line.since = self._tick()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _line(self, sequence: Sequence) -> tuple[Share, Line]:
        """Finds or begins the line of a sequence's answer, and its share."""
        request = sequence.request
        share = self._shares.get(request.share)
        if share is None:
            share = self._shares[request.share] = Share(self._tick())
        line = share.lines.get(request.answer)
        if line is None:
            line = share.lines[request.answer] = Line(self._tick())
        return share, line

    def _tidy(self, sequence: Sequence) -> None:
        """Forgets the line and the share of a sequence where they hold nothing."""
        name, answer = sequence.request.share, sequence.request.answer
        share = self._shares[name]
        line = share.lines[answer]
        if not (line.rows or line.running):
            del share.lines[answer]
        if not share.lines:
            del self._shares[name]
