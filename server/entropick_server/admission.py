"""The one place that bounds how many prompts wait: from the parsed body on, before anything is tokenised."""

from __future__ import annotations

from .protocol.errors import unavailable


class Place:
    """A prompt that was admitted, with its choices: ``waiting`` had no output yet, ``running`` had one."""

    __slots__ = ("_admission", "_begun", "running", "waiting")

    def __init__(self, admission: Admission, choices: int) -> None:
        self._admission = admission
        self._begun = False
        self.waiting = choices
        self.running = 0

    @property
    def begun(self) -> bool:
        """True once the prompt had its first output; from then on it waits no more."""
        return self._begun

    def begin(self) -> None:
        """Notes that a choice had its first output."""
        self._begun = True
        self.waiting -= 1
        self.running += 1

    def end(self) -> None:
        """Notes that a choice which had begun has ended."""
        self.running -= 1
        if not self.waiting and not self.running:
            self.leave()

    def leave(self) -> None:
        """Gives the place up, whatever of its choices waits or runs. Harmless when called again."""
        self._admission.forget(self)


class Admission:
    """The prompts that are here: at most ``max_queue`` wait behind those that free slots will take.

    A prompt waits until its first output; its choices count as one then, and as one slot each afterwards.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self._slots = slots
        self._max_queue = max_queue
        self._places: dict[Place, None] = {}

    @property
    def prompts(self) -> int:
        """Number of prompts that wait or run."""
        return len(self._places)

    def admit(self, prompts: int, choices: int) -> list[Place]:
        """Admits the prompts of one HTTP request, with ``choices`` choices each, all of them or none.

        Returns their places in order. The caller must give each up by ``leave()``. Raises the 503 where the
        queue is full.
        """
        free = self._slots - sum(place.running for place in self._places)
        behind = 0
        for place in self._places:
            if free <= 0 and not place.begun:
                behind += 1
            free -= place.waiting
        for _ in range(prompts):
            if free <= 0:
                if behind >= self._max_queue:
                    raise unavailable(
                        f"the queue is full (max_queue {self._max_queue}); try again later", "queue_full"
                    )
                behind += 1
            free -= choices
        places = [Place(self, choices) for _ in range(prompts)]
        self._places.update(dict.fromkeys(places))
        return places

    def forget(self, place: Place) -> None:
        """Removes a place, if it is here."""
        self._places.pop(place, None)
