"""One row inside the engine, a request or a branch of one: what it has, what it waits for, when it ends.

Owned by the engine thread. Knows nothing of tensors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ..types import FinishReason, Request, Token
from .prefix import page_digest

CHOICE_SHIFT: Final = 16
"""bits of a branch's number below that of the choice"""
MAX_CHOICES: Final = 1 << 16
"""choices of one prompt that Philox's 32 bit word can tell apart"""


@dataclass(slots=True, eq=False)
class Sequence:
    """A running or waiting row. The scheduler fills ``slot``, ``pages``, ``computed``, ``registered``,
    ``admitted`` and ``cached``; a page list only grows in place, or is replaced.

    ``tokens``: prompt and reply. ``computed``: how many of them have keys and values in the cache; all but
    the newest while the row decodes. ``forced``: tokens to emit next instead of drawing; ``replay`` says that
    they are the request's own (teacher forcing) and that it ends with them.
    """

    request: Request
    limit: int
    """tokens this sequence may hold, prompt and reply together"""
    tokens: list[int]
    branch: int = 0
    """0 for the request itself; its branches draw with numbers of their own"""
    computed: int = 0
    slot: int = -1
    """its place in the running set; -1 while it does not run"""
    pages: list[int] = field(default_factory=list)
    registered: int = 0
    """pages from the first on that were offered for reuse"""
    admitted: int = -1
    """how many were admitted before it"""
    cached: int = 0
    """tokens of the prompt whose pages were found at the first admission"""
    forced: deque[int] = field(default_factory=deque)
    replay: bool = False
    clarify_used: int = 0
    """clarifying texts so far"""
    since_clarify: int | None = None
    """tokens since the last clarifying text began; None before the first"""
    unfinished: bytes = b""
    """the bytes of a character that the newest tokens began and did not end"""
    first_step: float | None = None
    """time.monotonic() of its first step"""
    undelivered: list[Token] = field(default_factory=list)
    """tokens taken while the request had branches: they are the reply's only if this row is adopted"""
    ended: FinishReason | None = None
    """why it stopped, where its request still has other branches"""
    rollout_end: int = 0
    """tokens, prompt and reply, at which it is judged beside its request's other branches; 0: no rollout"""
    branch_spent: int = 0
    """of the request's own row: tokens of branches that lost"""
    _digests: list[bytes] = field(default_factory=list)

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
        if not 0 <= request.choice < MAX_CHOICES:
            raise ValueError(f"choice must be 0 to {MAX_CHOICES - 1}")
        wanted = len(forced) if forced else request.sampling.max_tokens
        if wanted < 1:
            raise ValueError("max_tokens must be at least 1")
        return cls(
            request,
            min(prompt + wanted, max_model_len),
            list(request.prompt_token_ids),
            forced=deque(forced),
            replay=bool(forced),
        )

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def generated(self) -> int:
        """Tokens of the reply so far: the position of the next draw."""
        return len(self.tokens) - self.prompt_length

    @property
    def branch_word(self) -> int:
        """What its draws have in the place of Philox's branch: the choice above 16 bits of branch."""
        return self.request.choice << CHOICE_SHIFT | self.branch

    def digest(self, page: int, size: int) -> bytes:
        """The digest of a full page of this sequence; kept, so that each is made once."""
        known = self._digests
        while len(known) <= page:
            at = len(known) * size
            known.append(page_digest(known[-1] if known else b"", self.tokens[at : at + size]))
        return known[page]

    def take(self, token: int) -> FinishReason | None:
        """Append an emitted token; the reason to stop, if there is one."""
        self.tokens.append(token)
        if self.replay:
            self.forced.popleft()
            return FinishReason.LENGTH if not self.forced or self._full else None
        if self.forced:
            self.forced.popleft()
        if token in self.request.sampling.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._full else None

    @property
    def rolled_out(self) -> bool:
        """True where nothing is missing for the verdict on its rollout."""
        return self.ended is not None or len(self.tokens) >= self.rollout_end

    def fork(self, branch: int) -> Sequence:
        """A row without a place that continues where this one is, with draws of its own."""
        child = Sequence(self.request, self.limit, [], branch)
        child.continue_as(self)
        return child

    def continue_as(self, other: Sequence) -> None:
        """Take over what another row of the same request has said and what it is about to say."""
        self.tokens = other.tokens.copy()
        self.forced = other.forced.copy()
        self.replay = other.replay
        self.clarify_used = other.clarify_used
        self.since_clarify = other.since_clarify
        self.unfinished = other.unfinished
        self.first_step = other.first_step
        self.undelivered = other.undelivered.copy()
        self.ended = other.ended
        self._digests = other._digests.copy()

    @property
    def _full(self) -> bool:
        return len(self.tokens) >= self.limit
