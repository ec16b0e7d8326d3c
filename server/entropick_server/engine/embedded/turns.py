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

from .ranked import Ranked
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


Lines = Ranked[Line, tuple[int, bool, int, int]]


class Share:
    """The lines of the answers that count as one client's, and the number of its running sequences."""

    def __init__(self, since: int) -> None:
        """Begins without lines. ``since``: the clock at its last turn, or when it came."""
        self.since = since
        self.running = 0
        self.lines: dict[str, Line] = {}
        """by their answers, in the order of ``since``"""
        self.waiting: Lines = Ranked()
        """the lines with waiting sequences"""
        self.fresh: Lines = Ranked()
        """those of which the next sequence never had a place"""

    @property
    def place(self) -> tuple[int, int]:
        """Returns the key by which shares are ordered."""
        return self.running, self.since

    def rank(self, line: Line) -> None:
        """Notes the place of a line that changed."""
        if not line.rows:
            self.waiting.remove(line)
            self.fresh.remove(line)
            return
        place = line.place
        self.waiting.put(line, place)
        if line.rows[0].admitted < 0:
            self.fresh.put(line, place)
        else:
            self.fresh.remove(line)

    def renew(self, answer: str, since: int) -> None:
        """Notes that the line of an answer had a turn: it goes behind its equals."""
        line = self.lines.pop(answer)
        line.since = since
        self.lines[answer] = line


def first_within(lines: Lines, running: int, longest: float, least: int = 0) -> Sequence | None:
    """Finds the first waiting sequence with at most ``longest`` tokens among some lines.

    Of lines with ``least`` to ``running`` running sequences. Long sequences are passed by without a look at
    each of them, but for those whose patience has come to an end. Returns None where there is none.
    """
    while least <= running:
        after = least + 1
        for (held, patient, bits, _), line in lines.from_place((least,)):
            if held > running:
                return None
            after = held + 1
            if patient and 1 << (bits - 1) > longest:
                break  # and so are all behind it, of this number of running sequences
            if len(line.rows[0].tokens) <= longest:
                return line.rows[0]
        else:
            return None
        least = after
    return None


class Turns:
    """The queue of an engine. Sequences that had to give their place up unasked come before all others."""

    def __init__(self) -> None:
        self._first: deque[Sequence] = deque()
        self._shares: dict[str, Share] = {}
        self._order: Ranked[str, tuple[int, int]] = Ranked()
        """the names of the shares"""
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
        share, line = self._line(sequence)
        line.rows.append(sequence)
        share.rank(line)
        self._length += 1

    def put_back(self, sequence: Sequence) -> None:
        """Queues a sequence that has had a turn; its answer goes behind its equals.

        It comes before the other sequences of its answer.
        """
        share, line = self._line(sequence)
        line.rows.appendleft(sequence)
        share.renew(sequence.request.answer, self._tick())
        share.rank(line)
        self._length += 1

    def put_first(self, sequence: Sequence) -> None:
        """Queues a sequence before all others."""
        self._first.appendleft(sequence)

    def promote(self, sequence: Sequence) -> None:
        """Moves a waiting sequence before all others, as if it had its turn now."""
        self._pass(sequence, *self._line(sequence))
        self.remove(sequence)
        self.put_first(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out of the queue, if it waits."""
        if sequence in self._first:
            self._first.remove(sequence)
        elif sequence in self:
            share, line = self._line(sequence)
            line.rows.remove(sequence)
            share.rank(line)
            self._length -= 1
            self._tidy(sequence)

    def replace(self, old: Sequence, new: Sequence) -> None:
        """Puts a sequence in the place of another sequence of the same request, if that waits."""
        rows = self._first
        if old in rows:
            rows[rows.index(old)] = new
        elif old in self:
            share, line = self._line(old)
            line.rows[line.rows.index(old)] = new
            share.rank(line)

    def order(self) -> Iterator[Sequence]:
        """Goes through the sequences that may be next: the first of each answer, in the order of turns.

        Where sequences come before all others, that is the first of them alone.
        """
        if self._first:
            yield self._first[0]
            return
        for _, share in self.shares():
            for line in share.waiting:
                yield line.rows[0]

    def shares(self) -> Iterator[tuple[str, Share]]:
        """Goes through the shares with their names, in the order of turns."""
        return ((name, self._shares[name]) for name in self._order)

    def begin(self, sequence: Sequence) -> None:
        """Counts a sequence as running; it waits no more."""
        share, line = self._line(sequence)
        if sequence in line.rows:
            self._pass(sequence, share, line)
        # counted first, or its line would be forgotten with its last row
        self._count(sequence, share, line, 1)
        self.remove(sequence)

    def end(self, sequence: Sequence) -> None:
        """Counts a sequence as running no more."""
        share, line = self._line(sequence)
        self._count(sequence, share, line, -1)
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

    def _count(self, sequence: Sequence, share: Share, line: Line, change: int) -> None:
        """Changes the numbers of running sequences of a share and a line."""
        share.running += change
        line.running += change
        share.rank(line)
        self._order.put(sequence.request.share, share.place)

    def _pass(self, sequence: Sequence, share: Share, line: Line) -> None:
        """Notes that a line, that of ``sequence``, has a turn now."""
        for other in share.lines.values():
            if other.since >= line.since:
                break
            if other.rows and other.running <= line.running:
                other.passed += 1
                if other.passed == PATIENCE:
                    share.rank(other)
        line.passed = 0
        share.since = self._tick()
        share.renew(sequence.request.answer, share.since)
        share.rank(line)
        self._order.put(sequence.request.share, share.place)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _line(self, sequence: Sequence) -> tuple[Share, Line]:
        """Finds or begins the line of a sequence's answer, and its share."""
        request = sequence.request
        share = self._shares.get(request.share)
        if share is None:
            share = self._shares[request.share] = Share(self._tick())
            self._order.put(request.share, share.place)
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
            self._order.remove(name)
