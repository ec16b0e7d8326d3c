"""From a request that arrives to its place: what can never run, who waits, who runs.

Knows nothing of vLLM.
"""

from __future__ import annotations

from entropick_sampler.compose import validate_request
from entropick_sampler.profile import Profile

from ..base import EngineError, QueueFullError
from ..types import ModelInfo, Request


class Admission:
    """The requests that run, each in a place 0 to ``limit`` - 1, and those that wait for one."""

    def __init__(self, limit: int, max_queue: int) -> None:
        self._limit = limit
        self._max_queue = max_queue
        self._slots: dict[str, int] = {}
        self._groups: dict[str, str] = {}
        self._free = list(reversed(range(limit)))

    @property
    def idle(self) -> bool:
        """Whether no request is here."""
        return not self._slots

    def check(self, request: Request) -> None:
        """Raise QueueFullError where one more cannot wait, EngineError where the request id is in use."""
        if request.request_id in self._slots:
            raise EngineError(f"request id {request.request_id!r} is in use")
        # the choices of one prompt wait as one request
        waiting = {self._groups.get(other, other) for other, slot in self._slots.items() if slot < 0}
        running = sum(slot >= 0 for slot in self._slots.values())
        if running + len(waiting) >= self._limit + self._max_queue and request.group not in waiting:
            raise QueueFullError("The waiting queue is full; try again later.")

    def enter(self, request: Request) -> None:
        """The request waits from now on."""
        self._slots[request.request_id] = -1
        if request.group is not None:
            self._groups[request.request_id] = request.group

    def slot(self, request_id: str) -> int:
        """A request's place, -1 while it waits."""
        return self._slots[request_id]

    def begin(self, request_id: str) -> None:
        """A request that waited runs from now on."""
        self._slots[request_id] = self._free.pop() if self._free else self._limit - 1

    def leave(self, request_id: str) -> int:
        """A request is gone; the place that it had, -1 for none."""
        slot = self._slots.pop(request_id)
        self._groups.pop(request_id, None)
        # where more ran than there are places, several shared the last one
        if slot >= 0 and slot not in self._slots.values():
            self._free.append(slot)
        return slot


def problem(request: Request, info: ModelInfo, profile: Profile | None) -> str | None:
    """Why a request can never run on this model, None where it can."""
    size, longest = info.vocab_size, info.max_model_len
    for kind, ids in (("prompt", request.prompt_token_ids), ("forced", request.forced_token_ids)):
        if ids and not (min(ids) >= 0 and max(ids) < size):
            return f"{kind} token ids must be 0 to {size - 1}"
    prompt = len(request.prompt_token_ids)
    if not prompt:
        return "the prompt is empty"
    if prompt >= longest:
        return f"the prompt has {prompt} tokens; with one of reply the context holds {longest}"
    if not request.forced_token_ids and request.sampling.max_tokens < 1:
        return "max_tokens must be at least 1"
    try:
        validate_request(request.sampling, request.policy, profile)
    except ValueError as error:
        return str(error)
    return None
