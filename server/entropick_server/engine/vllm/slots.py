"""The requests of the vLLM engine: the ids in use, and the slots of running requests.

Knows nothing of vLLM.
"""

from __future__ import annotations

from ..base import EngineError

_WAITING = -1


class RequestSlots:
    """The requests that run, each in a slot from 0 to ``limit`` - 1, and the requests that wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: dict[str, int] = {}
        self._free = list(reversed(range(limit)))

    @property
    def idle(self) -> bool:
        """True if no request runs or waits."""
        return not self._slots

    def enter(self, request_id: str) -> None:
        """Adds a request that waits. Raises EngineError where its id is in use."""
        if request_id in self._slots:
            raise EngineError(f"request id {request_id!r} is in use")
        self._slots[request_id] = _WAITING

    def slot(self, request_id: str) -> int:
        """Returns a request's slot, -1 while it waits."""
        return self._slots[request_id]

    def begin(self, request_id: str) -> None:
        """Gives a request that waited a slot; the last slot where vLLM runs more requests than there are."""
        self._slots[request_id] = self._free.pop() if self._free else self._limit - 1

    def leave(self, request_id: str) -> int:
        """Removes a request. Returns the slot that it had, -1 for none."""
        slot = self._slots.pop(request_id)
        # where more ran than there are slots, several shared the last one
        if slot >= 0 and slot not in self._slots.values():
            self._free.append(slot)
        return slot
