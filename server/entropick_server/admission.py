"""The bound on prompts that wait, from the parsed body on: before anything is tokenised, for both engines."""

from __future__ import annotations

from .protocol.errors import unavailable


class AdmittedPrompt:
    """A prompt that was admitted; its choices wait until their first output, then they run."""

    __slots__ = ("_admission", "_begun", "_held", "running", "waiting")

    def __init__(self, admission: Admission, choices: int, held: bool) -> None:
        self._admission = admission
        self._begun = False
        self._held = held
        self.waiting = choices
        self.running = 0

    @property
    def begun(self) -> bool:
        """True if the prompt had an output; from then on it waits no more."""
        return self._begun

    def begin(self) -> None:
        """Notes that a choice had its first output."""
        self._begun = True
        self.waiting -= 1
        self.running += 1

    def add_waiting(self) -> None:
        """Notes that another choice of the prompt waits."""
        self.waiting += 1

    def end(self) -> None:
        """Notes that a choice which had begun has ended."""
        self.running -= 1
        if not (self.waiting or self.running or self._held):
            self.leave()

    def leave(self) -> None:
        """Removes the prompt, also while choices wait or run. Harmless when called again."""
        self._admission.forget(self)


class Admission:
    """The prompts that wait or run: at most ``max_queue`` wait behind the prompts that free slots will take.

    A prompt waits until its first output; its choices count as one then, and as one slot each afterwards.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self._slots = slots
        self._max_queue = max_queue
        self._prompts: dict[AdmittedPrompt, None] = {}

    @property
    def prompts(self) -> int:
        """Returns the number of prompts that wait or run."""
        return len(self._prompts)

    def admit(self, prompts: int, choices: int, *, held: bool = False) -> list[AdmittedPrompt]:
        """Admits the prompts of one HTTP request, with ``choices`` choices each, all of them or none.

        ``held``: further choices may follow, so a prompt stays until it is told to leave. Returns them in
        order. The caller must call ``leave()`` of each at the end. Raises the 503 where the queue is full.
        """
        free = self._slots - sum(prompt.running for prompt in self._prompts)
        behind = 0
        for prompt in self._prompts:
            if free <= 0 and not prompt.begun:
                behind += 1
            free -= prompt.waiting
        for _ in range(prompts):
            if free <= 0:
                if behind >= self._max_queue:
                    raise unavailable(
                        f"the queue is full (max_queue {self._max_queue}); try again later", "queue_full"
                    )
                behind += 1
            free -= choices
        admitted = [AdmittedPrompt(self, choices, held) for _ in range(prompts)]
        self._prompts.update(dict.fromkeys(admitted))
        return admitted

    def forget(self, prompt: AdmittedPrompt) -> None:
        """Removes a prompt, if it is here."""
        self._prompts.pop(prompt, None)
