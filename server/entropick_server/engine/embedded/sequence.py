"""A prompt and its reply inside the embedded engine, with the blocks that hold its keys.

The engine thread owns every sequence. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from entropick_kernels.attention_stats.costs import UNKNOWN

from ..reply import Reply, philox_stream
from ..types import FinishReason, Request, Token
from .block_pool import block_digest
from .prompt_figures import PromptFigures


@dataclass(slots=True, eq=False)
class Family:
    """A request's own sequence, the root, and the branches that were forked from it, the oldest first."""

    root: Sequence
    branches: list[Sequence] = field(default_factory=list)
    forked: int = 0
    """branches since a sequence was adopted: until then no number is used twice"""


@dataclass(slots=True, eq=False)
class Sequence:
    """A running or waiting sequence: a request's own, or one of its branches.

    The scheduler fills ``family``, ``slot``, ``blocks``, ``computed``, ``registered``, ``admitted``,
    ``turn_began`` and ``cached``; a block list only grows in place, or is replaced. The commit of
    a step changes the rest.
    """

    request: Request
    tokens: list[int]
    """prompt and reply"""
    reply: Reply
    branch: int = 0
    """0 for the request's own sequence; its branches draw with numbers of their own"""
    family: Family | None = None
    """None before the sequence is queued and after it was forgotten"""
    computed: int = 0
    """tokens whose keys are in the cache: all but the newest while the sequence decodes"""
    slot: int = -1
    """its number among the running sequences; -1 while it does not run"""
    blocks: list[int] = field(default_factory=list)
    registered: int = 0
    """blocks from the first on that were offered for reuse"""
    admitted: int = -1
    """how many sequences were admitted before it"""
    turn_began: int = 0
    """tokens that it had when it was admitted"""
    cached: int = 0
    """tokens of the prompt whose blocks were found at the first admission"""
    first_step: float | None = None
    """time.monotonic() of its first step"""
    undelivered: list[Token] = field(default_factory=list)
    """tokens taken while the request had branches: they are emitted only if this sequence is adopted"""
    ended: FinishReason | None = None
    """why it stopped, while its request still has other branches"""
    branch_spent: int = 0
    """of the request's own sequence: tokens of branches that lost"""
    surprisals: list[float] | None = None
    """of each of ``tokens``, bits, below 0 where not known; None unless the request wants token costs"""
    prompt_figures: PromptFigures | None = None
    """of the request's own sequence; None unless the request wants log probabilities of its prompt"""
    _digests: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, max_model_len: int) -> Sequence:
        """Makes the waiting sequence of a request that passed :func:`~..reply.check_request`."""
        tokens, reply = list(request.prompt_token_ids), Reply.begin(request, max_model_len)
        sequence = cls(request, tokens, reply)
        sequence.branch_spent = 0 if request.resumed is None else request.resumed.spent
        if request.policy.genuineness in (True, "seed"):
            # nothing stands before the first token: it costs nothing
            sequence.surprisals = [0.0, *[UNKNOWN] * (len(tokens) - 1)]
        sequence.prompt_figures = PromptFigures.of(request)
        return sequence

    @property
    def prompt_length(self) -> int:
        """Counts the tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def limit(self) -> int:
        """Counts the tokens that the sequence may hold, prompt and reply together."""
        return len(self.request.prompt_token_ids) - self.request.kept + self.reply.limit

    @property
    def philox_stream(self) -> int:
        """Numbers the draws of this sequence."""
        return philox_stream(self.request.choice, self.branch)

    @property
    def branches(self) -> list[Sequence]:
        """Lists the branches of the sequence's request; none where the request was forgotten."""
        return [] if self.family is None else self.family.branches

    @property
    def lacks_prompt(self) -> bool:
        """Tells whether figures of the prompt's tokens are wanted that come with computing it alone."""
        wanted = self.prompt_figures
        return self.surprisals is not None or (wanted is not None and not wanted.complete)

    @property
    def rolled_out(self) -> bool:
        """Tells whether nothing is missing for the verdict on its rollout."""
        return self.ended is not None or self.reply.rolled_out

    def digest(self, block: int, size: int) -> bytes:
        """Computes the digest of a full block of this sequence, once."""
        known = self._digests
        while len(known) <= block:
            at = len(known) * size
            known.append(block_digest(known[-1] if known else b"", self.tokens[at : at + size]))
        return known[block]

    def append(self, token: Token) -> None:
        """Appends a token that was drawn or given."""
        self.tokens.append(token.token_id)
        if self.surprisals is not None:
            known = token.surprisal
            self.surprisals.append(UNKNOWN if known is None else known)

    def fork(self, branch: int) -> Sequence:
        """Makes a branch without a slot that continues this sequence, with draws of its own."""
        child = Sequence(self.request, [], self.reply, branch, self.family)
        child.continue_as(self)
        return child

    def continue_as(self, other: Sequence) -> None:
        """Takes over the tokens and the reply of another sequence of the same request."""
        self.tokens = other.tokens.copy()
        self.reply = other.reply.copy()
        self.surprisals = None if other.surprisals is None else other.surprisals.copy()
        self.first_step = other.first_step
        self.undelivered = other.undelivered.copy()
        self.ended = other.ended
        self._digests = other._digests.copy()


def family_of(sequence: Sequence) -> Family:
    """Finds the family of a sequence. Raises ValueError for a sequence that was forgotten."""
    if sequence.family is None:
        raise ValueError("this sequence belongs to no request that runs")
    return sequence.family


def request_ids(sequences: Iterable[Sequence]) -> tuple[str, ...]:
    """Lists the request ids of some sequences."""
    return tuple(sequence.request.request_id for sequence in sequences)
