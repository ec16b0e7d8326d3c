"""Which rows belong together: a request's own and the branches forked from it; the choices of one prompt."""

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
    """Requests by their id, each with the rows that have not been forgotten, and groups of requests."""

    def __init__(self) -> None:
        self._by_id: dict[str, _Family] = {}
        self._groups: dict[str, list[_Family]] = {}

    def open(self, root: Sequence) -> None:
        """Begin a request. Raises ValueError for an id that is in use, and for a group of another prompt."""
        request = root.request
        if request.request_id in self._by_id:
            raise ValueError(f"request id {request.request_id!r} is in use")
        family = _Family(root)
        if request.group is not None:
            group = self._groups.get(request.group, [])
            if group and group[0].root.request.prompt_token_ids != request.prompt_token_ids:
                raise ValueError("the choices of a group must have the same prompt")
            self._groups[request.group] = [*group, family]
        self._by_id[request.request_id] = family

    def root(self, request_id: str) -> Sequence | None:
        """The request's own row."""
        family = self._by_id.get(request_id)
        return None if family is None else family.root

    def root_of(self, row: Sequence) -> Sequence:
        """The own row of a row's request. Raises ValueError for a row that was forgotten."""
        return self._family(row).root

    def grouped(self, group: str | None) -> bool:
        """Whether a request of this group has not been forgotten."""
        return group in self._groups

    def mates(self, row: Sequence) -> list[Sequence]:
        """All rows of the other requests of a row's group."""
        group = self._groups.get(row.request.group or "", [])
        return [
            mate
            for family in group
            if family.root.request is not row.request
            for mate in (family.root, *family.branches)
        ]

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
            self._leave(family)
            return [row, *family.branches]
        if row in family.branches:
            family.branches.remove(row)
            return [row]
        return []

    def _leave(self, family: _Family) -> None:
        group = family.root.request.group
        if group is not None:
            left = [other for other in self._groups[group] if other is not family]
            if left:
                self._groups[group] = left
            else:
                del self._groups[group]

    def _family(self, row: Sequence) -> _Family:
        family = self._by_id.get(row.request.request_id)
        if family is None or not (row is family.root or row in family.branches):
            raise ValueError("this row belongs to no request that runs")
        return family
