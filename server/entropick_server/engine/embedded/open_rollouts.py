"""The rollouts that are open in the embedded engine, between two steps. No tensors.

At an opening the request's own sequence and its branches take their first tokens in one step and go on as
rows of the following steps. A sequence that has its tokens while others have not gives its slot back, so that
sequences for which there is no room together run in turns and no rollout can wait for itself. What opens,
what wins and what is emitted therefore never depend on what else runs.
"""

from __future__ import annotations

from collections.abc import Callable

from ..rollout import RolledOut, branch_ends, judge
from ..types import BranchVerdict, FinishReason
from .scheduler import Scheduler
from .sequence import Sequence


class OpenRollouts:
    """The rollouts without a verdict, each as its sequences: the request's own, then its branches."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.open: list[tuple[Sequence, ...]] = []

    def begin(self, sequences: tuple[Sequence, ...], depth: int) -> None:
        """Opens a rollout of at most ``depth`` tokens.

        The caller must give the sequences their first tokens next.
        """
        texts = branch_ends(sequences[0].request)
        for sequence in sequences:
            sequence.reply.begin_rollout(depth, texts)
        self.open.append(sequences)

    def judge(self, give_up: Callable[[Sequence], None]) -> list[tuple[Sequence, BranchVerdict]]:
        """Closes every rollout in which no sequence lacks a token.

        ``give_up``: ends the request whose sequences cannot be judged, in the ``except`` of the error.
        Returns the winners with their verdicts; the caller must adopt each winner at once.
        """
        going, verdicts = [], []
        for sequences in self.open:
            root = sequences[0]
            if root.family is None:
                continue  # its request was cancelled, or failed
            if all(sequence.rolled_out for sequence in sequences):
                try:
                    verdicts.append(_close(sequences))
                except Exception:  # noqa: BLE001 - a scorer may trip over one rollout alone
                    give_up(root)
                continue
            going.append(sequences)
            for sequence in sequences:
                if sequence.rolled_out:
                    self._scheduler.suspend(sequence)
        self.open = going
        return verdicts


def _close(sequences: tuple[Sequence, ...]) -> tuple[Sequence, BranchVerdict]:
    root = sequences[0]
    verdict = judge(
        root.request,
        [RolledOut(s.branch, s.undelivered, failed=s.ended is FinishReason.ERROR) for s in sequences],
    )
    if verdict is None:
        raise RuntimeError("every sequence of a rollout failed, and its request did not end")
    winner = sequences[verdict.winner]
    winner.undelivered = list(verdict.tokens)
    root.branch_spent += verdict.lost
    winner.reply.end_rollout()
    return winner, BranchVerdict(root.request.request_id, winner.branch, verdict.lost)
