"""The rows of a worker's batch: their specification, and their reply as the worker knows it.

vLLM tells of rows that join, leave and move. A row that had to wait, or was preempted, joins anew and goes on
with the reply that was parked. The outcome of a step is settled at the next step, when it is known whether
vLLM took the token: the token of an unfinished prompt is discarded. Knows nothing of vLLM.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from torch import Tensor

from entropick_sampler.repetition import TokenHistory
from entropick_sampler.reply_adjustments import ReplyAdjustments

from ..base import Tokenizer
from ..grammar.state import GrammarState
from ..reply import Reply
from .row_grammars import RowGrammars
from .row_surprisals import RowSurprisals
from .wire import RowSpec

_PARKED: Final = 4096
"""rows that are kept while they do not run; more than vLLM keeps waiting that have begun"""
_PARKED_SURPRISALS: Final = 1 << 24
"""surprisals of such rows that are kept together (64 MiB)"""


class _Outcome(NamedTuple):
    """The outcome of a step that is not settled: the token that was drawn behind ``taken`` tokens."""

    taken: int
    token_id: int
    clarifying: tuple[int, ...]
    surprisal: float | None
    only_choice: bool


@dataclass(slots=True, eq=False)
class Row:
    """A row of vLLM's batch while its segment runs. ``output``: vLLM's own list of its tokens (V1).

    ``surprisals``: of its tokens so far, None unless its request wants token costs."""

    spec: RowSpec
    reply: Reply
    output: Sequence[int] = ()
    surprisals: RowSurprisals | None = None
    _outcome: _Outcome | None = None

    @classmethod
    def of(cls, spec: RowSpec, output: Sequence[int] = ()) -> Row:
        """Makes a row that begins with ``spec``."""
        reply = Reply(
            length=spec.start,
            pending=deque(spec.replayed or spec.pending),
            replays=bool(spec.replayed),
            named=spec.named,
            clarifies=not spec.replayed and spec.policy.policy == "entropix" and spec.grammar is None,
            rollout_end=spec.rollout_end,
            clarify_used=spec.clarify_used,
            since_clarify=spec.since_clarify,
            tokens=spec.tokens,
            surprisal=spec.surprisal,
            unfinished=spec.unfinished,
            history=TokenHistory(spec.newest),
            adjustments=_adjustments(spec),
        )
        if spec.known is None:
            return cls(spec, reply, output)
        surprisals = RowSurprisals(spec.prompt_tokens, spec.known)
        return cls(replace(spec, known=()), reply, output, surprisals)

    def drew(
        self,
        taken: int,
        token_id: int,
        clarifying: tuple[int, ...],
        surprisal: float | None = None,
        *,
        only_choice: bool = False,
    ) -> bool:
        """Notes the token that a step drew behind ``taken`` tokens, and tells whether it was forced.

        ``clarifying``: the clarifying text that begins with it, () where none does; ``surprisal``: its own,
        bits, None where it is not known; ``only_choice``: a grammar left no other token.
        """
        self._outcome = _Outcome(taken, token_id, clarifying, surprisal, only_choice)
        return self.reply.forces(clarifying)

    def settle(self, taken: int, tokenizer: Tokenizer) -> None:
        """Lets the reply take the token that was drawn last if it is among vLLM's ``taken`` tokens by now."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None and taken == outcome.taken + 1:
            chosen = None if outcome.only_choice else outcome.surprisal
            self.reply.take(outcome.token_id, tokenizer, outcome.clarifying, chosen)
            if self.surprisals is not None:
                self.surprisals.set(outcome.taken, outcome.surprisal)
        elif self.surprisals is not None:
            self.surprisals.cover(taken)
        if self.reply.length != (length := self.spec.start + taken):
            # a row that joined anew and was not parked: what remains of it is the number of its tokens, and
            # under V1 the tokens themselves
            given = self.spec.replayed or self.spec.pending
            pending = deque(given[taken:]) if given else self.reply.pending
            history = TokenHistory((*self.spec.newest, *self.output))
            self.reply = replace(
                self.reply,
                length=length,
                pending=pending,
                named=max(0, self.spec.named - taken),
                history=history,
                adjustments=_adjustments(self.spec, self.output),
                grammar=None,
            )

    def follow(self, grammars: RowGrammars) -> GrammarState | None:
        """Returns where the reply stands in its grammar, as it was settled; None where it follows none."""
        asked = self.spec.grammar
        if asked is not None and self.reply.grammar is None:
            taken = self.reply.length - self.spec.start
            self.reply.grammar = grammars.begin(asked, self.output, taken)
        return self.reply.grammar


def _adjustments(spec: RowSpec, output: Sequence[int] = ()) -> ReplyAdjustments | None:
    """Makes the adjustments of a row's reply behind its first tokens."""
    if spec.replayed:
        return None
    return ReplyAdjustments.of(spec.sampling, spec.seen, (*spec.output, *output))


class RowTable:
    """The rows of a batch by their index in it (V1), or by the index of their request (V2)."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._parked: OrderedDict[str, Row] = OrderedDict()
        self._parked_surprisals = 0

    def __len__(self) -> int:
        """Counts the rows that run."""
        return len(self._rows)

    def at(self, indices: Iterable[int]) -> list[Row | None]:
        """Returns the rows at some indices, None for rows that are not ours."""
        return [self._rows.get(index) for index in indices]

    def join(self, index: int, spec: RowSpec | None, output: Sequence[int] = ()) -> None:
        """Puts a row at an index, where another row may have been. ``spec`` None: a row that is not ours."""
        self.leave(index)
        if spec is None:
            return
        row = None if spec.key is None else self._known(spec, spec.key)
        if row is None or row.spec != spec:
            row = Row.of(spec, output)
        row.output = output
        self._rows[index] = row

    def _known(self, spec: RowSpec, key: str) -> Row | None:
        """Finds a row that joins anew: it left, or V2 preempted it, which tells nobody, and it never left."""
        for index, row in self._rows.items():
            if row.spec.key == key and row.spec == spec:
                return self._rows.pop(index)
        return self._unpark(key)

    def _unpark(self, key: str) -> Row | None:
        row = self._parked.pop(key, None)
        if row is not None and row.surprisals is not None:
            self._parked_surprisals -= row.surprisals.size
        return row

    def tell_prompt(self, index: int, logprobs: Tensor) -> None:
        """Tells the row at an index, if it wants token costs, the log probabilities of its prompt."""
        row = self._rows.get(index)
        if row is not None and row.surprisals is not None:
            row.surprisals.tell_prompt(logprobs)

    def leave(self, index: int) -> None:
        """Parks the row at an index: it ended, or it has to wait, and vLLM does not tell which.

        A parked row holds no list of vLLM's, and a replayed row without surprisals is not parked: its
        specification says all.
        """
        row = self._rows.pop(index, None)
        if row is None or row.spec.key is None or (row.spec.replayed and row.surprisals is None):
            return
        row.output = ()
        self._unpark(row.spec.key)
        self._parked[row.spec.key] = row
        if row.surprisals is not None:
            self._parked_surprisals += row.surprisals.size
        while len(self._parked) > _PARKED or self._parked_surprisals > _PARKED_SURPRISALS:
            self._unpark(next(iter(self._parked)))

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """Moves a row to another index; with ``swap`` the row there moves to ``source``, else it leaves.

        Of a row whose place another takes vLLM tells nothing but the move (V1).
        """
        if not swap:
            self.leave(target)
        moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
        if moved is not None:
            self._rows[target] = moved
        if swap and other is not None:
            self._rows[source] = other
