"""Which rows belong to which request: its own, and the branches that were forked from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .sequence import Sequence


@dataclass(slots=True)
class _Family:
    root: Sequence
    branches: list[Sequence] = field(default_factory=list)
    forked: int = 0
    """branches since one was adopted: until then their numbers are not used twice"""


class Families:
    """Requests by their id, each with the rows that have not been forgotten."""

    def __init__(self) -> None:
        self._by_id: dict[str, _Family] = {}

    def open(self, root: Sequence) -> None:
        """Begin a request. Raises ValueError for an id that is in use."""
        request_id = root.request.request_id
        if request_id in self._by_id:
            raise ValueError(f"request id {request_id!r} is in use")
        self._by_id[request_id] = _Family(root)

    def root(self, request_id: str) -> Sequence | None:
        """The request's own row."""
        family = self._by_id.get(request_id)
        return None if family is None else family.root

    def root_of(self, row: Sequence) -> Sequence:
        """The own row of a row's request. Raises ValueError for a row that was forgotten."""
        return self._family(row).root

    def branches(self, row: Sequence) -> list[Sequence]:
        """The branches of a row's request, the oldest first; none where the request was forgotten."""
        family = self._by_id.get(row.request.request_id)
        return [] if family is None else family.branches.copy()

    def fork(self, parent: Sequence, count: int) -> list[Sequence]:
        """New rows that continue as ``parent`` does. Raises ValueError for a row that ended or is unknown."""
        family = self._family(parent)
        if parent.ended is not None:
            raise ValueError("a row that has ended cannot be forked")
        made = [parent.fork(family.forked + 1 + i) for i in range(count)]
        family.forked += count
        family.branches += made
        return made

    def settle(self, root: Sequence) -> None:
        """A row of the request was adopted: the numbers of branches begin anew behind its tokens."""
        self._family(root).forked = 0

    def close(self, row: Sequence) -> list[Sequence]:
        """Forget a branch, or a request with all its branches; what was forgotten."""
        family = self._by_id.get(row.request.request_id)
        if family is None:
            return []
        if row is family.root:
            del self._by_id[row.request.request_id]
            return [row, *family.branches]
        if row in family.branches:
            family.branches.remove(row)
            return [row]
        return []

    def _family(self, row: Sequence) -> _Family:
        family = self._by_id.get(row.request.request_id)
        if family is None or not (row is family.root or row in family.branches):
            raise ValueError("this row belongs to no request that runs")
        return family
