"""One request inside the engine: what it has, what it waits for, when it ends.

Owned by the engine thread. Knows nothing of tensors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .types import FinishReason, Request


@dataclass(slots=True, eq=False)
class Sequence:
    """A running or waiting request. The scheduler fills ``slot``, ``pages`` and ``computed``.

    ``computed``: tokens whose keys and values are in the cache. ``last``: the newest token, which the next
    step feeds. ``forced``: tokens to emit next instead of drawing; ``replay`` says that they are the
    request's own (teacher forcing) and that it ends with them.
    """

    request: Request
    limit: int
    """tokens this sequence may hold, prompt and reply together"""
    computed: int = 0
    generated: int = 0
    last: int = -1
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    replay: bool = False
    unfinished: bytes = b""
    """the bytes of a character that the newest tokens began and did not end"""
    first_step: float | None = None
    """time.monotonic() of its first step"""

    @classmethod
    def of(cls, request: Request, max_model_len: int) -> Sequence:
        """A waiting sequence. Raises ValueError where the prompt leaves no room for a token."""
        prompt = len(request.prompt_token_ids)
        if not prompt:
            raise ValueError("the prompt is empty")
        if prompt >= max_model_len:
            raise ValueError(
                f"the prompt has {prompt} tokens; with one of reply the context holds {max_model_len}"
            )
        forced = request.forced_token_ids
        wanted = len(forced) if forced else request.sampling.max_tokens
        if wanted < 1:
            raise ValueError("max_tokens must be at least 1")
        return cls(
            request,
            min(prompt + wanted, max_model_len),
            forced=deque(forced),
            replay=bool(forced),
        )

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def prefilling(self) -> bool:
        """True until the last token of the prompt has been fed."""
        return self.computed < self.prompt_length

    def take(self, token: int) -> FinishReason | None:
        """Append an emitted token; the reason to stop, if there is one."""
        self.last = token
        self.generated += 1
        if self.replay:
            self.forced.popleft()
            return FinishReason.LENGTH if not self.forced or self._full else None
        if self.forced:
            self.forced.popleft()
        if token in self.request.sampling.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._full else None

    @property
    def _full(self) -> bool:
        return self.prompt_length + self.generated >= self.limit
