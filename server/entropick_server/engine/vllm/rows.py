"""The rows of a worker's batch: what each is about to say, and what the policy remembers of it.

vLLM tells of rows that join, leave and move; a row that had to wait, or was preempted, joins anew and goes on
from what was kept of it. What a step did to a row is settled at the next one, when it is known whether vLLM
took the token: that of an unfinished prompt is thrown away. Knows nothing of vLLM.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..base import Tokenizer
from ..reply import ClarifyingText as ClarifyText
from ..reply import unfinished_character
from .wire import RowSpec

_PARKED: Final = 4096
"""rows that are kept while they do not run; more than vLLM keeps waiting that have begun"""


@dataclass(slots=True, eq=False)
class Row:
    """A row while it lives. ``output``: vLLM's own list of the tokens it took (V1)."""

    spec: RowSpec
    output: Sequence[int] = ()
    forced: deque[int] = field(default_factory=deque)
    clarify_used: int = 0
    since_clarify: int | None = None
    unfinished: bytes = b""
    _clarifies: bool = True
    _pending: tuple[int, int, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, spec: RowSpec, output: Sequence[int] = ()) -> Row:
        """A row that begins."""
        return cls(
            spec,
            output,
            deque(spec.forced),
            spec.clarify_used,
            spec.since_clarify,
            spec.unfinished,
            not spec.replay and not spec.rollout and spec.policy.policy == "entropix",
        )

    def clarify_at(self, text: ClarifyText, taken: int) -> tuple[int, ...]:
        """The clarifying text as it would stand behind ``taken`` tokens of this row, () where none may."""
        if self.unfinished or not self._clarifies:
            return ()
        return text.later if self.spec.start + taken else text.first

    def drew(self, taken: int, token: int, text: tuple[int, ...]) -> bool:
        """Note what a step drew behind ``taken`` tokens; whether the token was forced.

        ``text``: the clarifying text that begins with it, () where none does.
        """
        self._pending = (taken, token, text)
        return bool(text or self.forced)

    def settle(self, taken: int, tokenizer: Tokenizer) -> None:
        """vLLM has ``taken`` tokens of this row now: what was drawn last counts if it is among them."""
        if self._pending is None:
            return
        (before, token, inserted), self._pending = self._pending, None
        if taken != before + 1:
            return
        if inserted:
            self.forced.extend(inserted)
            self.clarify_used += 1
            self.since_clarify = 0
        elif self.since_clarify is not None:
            self.since_clarify += 1
        if self.forced:
            self.forced.popleft()
        self.unfinished = unfinished_character(self.unfinished + (tokenizer.token_bytes(token) or b""))


class RowTable:
    """Rows by their place in vLLM's batch (V1) or by their slot (V2)."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._parked: OrderedDict[str, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, places: Iterable[int]) -> list[Row | None]:
        """The rows at these places, None for those that are not ours."""
        return [self._rows.get(place) for place in places]

    def join(self, place: int, spec: RowSpec | None, output: Sequence[int] = ()) -> None:
        """A row takes a place, which another may have had; None: one that is not ours."""
        self.leave(place)
        if spec is None:
            return
        row = None if spec.key is None else self._known(spec, spec.key)
        if row is None or row.spec != spec:
            row = Row.of(spec, output)
        row.output = output
        self._rows[place] = row

    def _known(self, spec: RowSpec, key: str) -> Row | None:
        """A row that joins anew: it left, or is where it was before V2 preempted it, which tells nobody."""
        for place, row in self._rows.items():
            if row.spec.key == key and row.spec == spec:
                return self._rows.pop(place)
        return self._parked.pop(key, None)

    def leave(self, place: int) -> None:
        """A row ended, or has to wait: which of the two nobody tells."""
        row = self._rows.pop(place, None)
        if row is not None and row.spec.key is not None:
            self._parked[row.spec.key] = row
            if len(self._parked) > _PARKED:
                self._parked.popitem(last=False)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """A row changes its place; with ``swap`` the other one takes its."""
        moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
        if moved is not None:
            self._rows[target] = moved
        if swap and other is not None:
            self._rows[source] = other
