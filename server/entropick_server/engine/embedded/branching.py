"""Rollouts: branches from their opening to the verdict. Between two steps, no tensors.

At an opening the request's own row and its branches take their first tokens in one step and go on as rows of
the batch. A row that has its tokens while others have not gives its place back, so that rows for which there
is no room together run in turns and no rollout can wait for itself. What opens, what wins and what is emitted
therefore never depend on what else runs.
"""

from __future__ import annotations

from dataclasses import replace

from entropick_sampler.branch import Trajectory, opens, scores, select
from entropick_sampler.params import BranchConfig
from entropick_sampler.score import host_confidence
from entropick_sampler.signals import SIGNAL_NAMES

from ..types import BranchRecord, BranchVerdict, FinishReason, Token
from .sampling import Drawn
from .scheduler import Scheduler
from .sequence import Sequence

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")


class Rollouts:
    """The branches that are open, by request."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._open: list[tuple[Sequence, ...]] = []

    def depth(self, row: Sequence, drawn: Drawn) -> int:
        """Tokens that each branch may have if branches open at a row's next token, 0 where none open.

        Call it before the row takes the token.
        """
        config = row.request.policy.branch
        if config is None or not drawn.firsts or self._scheduler.branches(row):
            return 0
        room = row.limit - len(row.tokens)
        max_tokens = row.request.sampling.max_tokens
        return opens(config, drawn.token.strategy, max_tokens, row.branch_spent, room)

    def begin(self, rows: tuple[Sequence, ...], depth: int) -> None:
        """Open: the request's own row and its branches, before they take their first tokens."""
        for row in rows:
            row.rollout_end = len(row.tokens) + depth
        self._open.append(rows)

    def judge(self) -> list[tuple[Sequence, BranchVerdict]]:
        """After a step: who wins each rollout that is over, to be adopted at once."""
        going, verdicts = [], []
        for rows in self._open:
            root = rows[0]
            if self._scheduler.find(root.request.request_id) is not root:
                continue  # cancelled, or it failed
            if all(row.rolled_out for row in rows):
                verdicts.append(_verdict(rows))
                continue
            going.append(rows)
            for row in rows:
                if row.rolled_out:
                    self._scheduler.suspend(row)
        self._open = going
        return verdicts


def _verdict(rows: tuple[Sequence, ...]) -> tuple[Sequence, BranchVerdict]:
    root = rows[0]
    policy = root.request.policy
    sound = [row for row in rows if row.ended is not FinishReason.ERROR]
    scorer = (policy.branch or BranchConfig()).scorer
    scored = scores(scorer, [_trajectory(row.undelivered) for row in sound])
    winner = sound[select(scored)]
    if policy.telemetry == "full":
        records = tuple(
            BranchRecord(tuple(t.token_id for t in row.undelivered), score, row is winner)
            for row, score in zip(sound, scored, strict=True)
        )
        winner.undelivered[0] = replace(winner.undelivered[0], branches=records)
    lost = sum(len(row.undelivered) for row in rows if row is not winner)
    root.branch_spent += lost
    root.rollout_end = 0
    return winner, BranchVerdict(root.request.request_id, winner.branch, lost)


def _trajectory(tokens: list[Token]) -> Trajectory:
    return Trajectory(
        [t.token_id for t in tokens],
        [t.logprob for t in tokens],
        [t.signals[_ENTROPY] or 0.0 for t in tokens],
        [host_confidence(t.signals) for t in tokens],
    )
