"""The bound on replies that wait, from the parsed body on: before anything is tokenised, for both engines."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from .protocol.errors import bad_request, unavailable

_REMEMBERED_ENDS: Final = 128
"""ends of replies from whose times the length of a wait is estimated"""
_LONGEST_RETRY: Final = 60
"""seconds after which a refused client is told to come back at the latest"""


class AdmittedPrompt:
    """A prompt that was admitted; its replies wait until their first output, then they run."""

    __slots__ = ("_admission", "_held", "_left", "running", "waiting")

    def __init__(self, admission: Admission, replies: int, held: bool) -> None:
        self._admission = admission
        self._held = held
        self._left = False
        self.waiting = replies
        self.running = 0

    def begin(self) -> None:
        """Notes that a reply had its first output."""
        self.waiting -= 1
        self.running += 1

    def add_waiting(self) -> None:
        """Notes that another reply to the prompt waits."""
        self.waiting += 1
        if not self._left:
            self._admission.count(1)

    def end(self) -> None:
        """Notes that a reply which had begun has ended."""
        self.running -= 1
        if self._left:
            return
        self._admission.count_end()
        if not (self.waiting or self.running or self._held):
            self.leave()

    def leave(self) -> None:
        """Removes the prompt, also while replies wait or run. Harmless when called again."""
        if not self._left:
            self._left = True
            self._admission.forget(self)


class Admission:
    """The replies that wait or run: at most ``max_queue`` more than there are slots.

    Every reply counts: each choice of each prompt, each vote on one.
    """

    def __init__(self, slots: int, max_queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with none. ``clock``: seconds, by which the length of a wait is estimated."""
        self._most = slots + max_queue
        self._bound = f"max_num_seqs {slots} + max_queue {max_queue}"
        self._clock = clock
        self._prompts: set[AdmittedPrompt] = set()
        self._replies = 0
        self._ends: deque[float] = deque(maxlen=_REMEMBERED_ENDS)

    @property
    def prompts(self) -> int:
        """Returns the number of prompts that wait or run."""
        return len(self._prompts)

    @property
    def replies(self) -> int:
        """Returns the number of replies that wait or run."""
        return self._replies

    def admit(
        self, prompts: int, replies: int, *, held: bool = False, param: str | None = None
    ) -> list[AdmittedPrompt]:
        """Admits the prompts of one HTTP request, with ``replies`` replies to each, all of them or none.

        ``held``: further replies may follow, so a prompt stays until it is told to leave; ``param``: the
        field that asks for several replies. Returns them in order. The caller must call ``leave()`` of each
        at the end. Raises the 503 where there is no room now, and the 400 where there never would be.
        """
        asked = prompts * replies
        if asked > self._most:
            name = "" if param is None else f"{param}: "
            message = (
                f"{name}{prompts} prompts of {replies} replies each are {asked} replies; at most "
                f"{self._most} in one request ({self._bound})."
            )
            raise bad_request(message, param)
        if (over := self._replies + asked - self._most) > 0:
            message = (
                f"the queue is full: {self._replies} replies wait or run, this request asks for {asked}, at "
                f"most {self._most} are taken ({self._bound}); try again later"
            )
            raise unavailable(message, "queue_full", self._retry_after(over))
        admitted = [AdmittedPrompt(self, replies, held) for _ in range(prompts)]
        self._prompts.update(admitted)
        self._replies += asked
        return admitted

    def count(self, replies: int) -> None:
        """Counts further replies to an admitted prompt."""
        self._replies += replies

    def count_end(self) -> None:
        """Counts a reply that ended, and when."""
        self._replies -= 1
        self._ends.append(self._clock())

    def forget(self, prompt: AdmittedPrompt) -> None:
        """Removes a prompt that is here, with the replies that wait or run."""
        self._prompts.remove(prompt)
        self._replies -= prompt.waiting + prompt.running

    def _retry_after(self, ends: int) -> int:
        """Estimates the seconds until ``ends`` replies have ended, at the pace of the last of them."""
        if len(self._ends) < 2:
            return 1
        pace = (self._clock() - self._ends[0]) / len(self._ends)
        return min(max(math.ceil(pace * ends), 1), _LONGEST_RETRY)
