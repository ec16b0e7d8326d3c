"""The end of a step: sequences take their tokens, branches open and are judged, requests end.

Nothing else changes what a sequence says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq
from typing import Final

import torch

from ..base import Tokenizer
from ..reply import Drawn
from ..rollout import first_tokens, rollout_depth
from ..types import BranchVerdict, FinishReason, RequestOutput, StepReport, Token
from .batch import Batch
from .model_runner import ModelRunner
from .open_rollouts import OpenRollouts
from .scheduler import Scheduler
from .sequence import Sequence, request_ids

STEP_FAILED: Final = "the engine failed while it ran this request; the server's log says why"
_NO_BATCH = Batch((), ())
_log = logging.getLogger(__name__)


class Committer:
    """The changes that follow from a step, or come between two, and the report that tells of them."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner, tokenizer: Tokenizer) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._tokenizer = tokenizer
        self._rollouts = OpenRollouts(scheduler)
        self._outputs: list[RequestOutput] = []
        self._slots: list[int] = []
        self._verdicts: list[BranchVerdict] = []

    @property
    def has_outputs(self) -> bool:
        """Tells whether there are outputs for the next report."""
        return bool(self._outputs)

    def commit(self, batch: Batch, drawn: Seq[Drawn], began: float, failed: Seq[Sequence] = ()) -> StepReport:
        """Records that a batch was fed and gives each of its rows the token that was drawn for it.

        ``drawn``: one for each of ``batch.rows``; ``began``: time.monotonic() at the step's beginning;
        ``failed``: sequences that were to be fed beside them and end. Returns the report of the step.
        """
        queued = _first_steps(batch, began) if batch.chunks else ()
        rows = batch.rows
        if self._scheduler.advance(batch):
            self._scheduler.register([row for row, one in zip(rows, drawn, strict=True) if one.error is None])
        for sequence in failed:
            if sequence.family is not None:
                self._fail(sequence, STEP_FAILED)
        for row, one in zip(rows, drawn, strict=True):
            if row.slot < 0:
                continue  # its request ended with another row of this step
            try:
                self._commit(row, one)
            except torch.AcceleratorError:
                raise
            except Exception:  # noqa: BLE001 - it has taken a part of a step: its request cannot go on
                self._give_up(row)
        if self._rollouts.open:
            for winner, verdict in self._rollouts.judge(self._give_up):
                self._verdicts.append(verdict)
                self.adopt(winner)
        return self.report(batch, queued, time.monotonic() - began)

    def _commit(self, row: Sequence, drawn: Drawn) -> None:
        """Gives a row what was drawn for it."""
        if drawn.error is not None:
            self._fail(row, drawn.error)
            return
        if not row.reply.room:
            self._emit(row, (), FinishReason.LENGTH)  # its prompt alone was wanted
            return
        if drawn.firsts and not row.branches:
            self._open_branches(row, drawn)
        self._take(row, drawn.token, drawn.clarifying)

    def _give_up(self, row: Sequence) -> None:
        """Ends the request of a row behind an exception, which is logged."""
        _log.exception("the end of a step failed for the request %s, which ends", row.request.request_id)
        if row.family is not None:
            self.end(row.family.root, FinishReason.ERROR, STEP_FAILED)

    def report(
        self,
        batch: Batch = _NO_BATCH,
        queued: tuple[tuple[str, float], ...] = (),
        duration: float = 0.0,
    ) -> StepReport:
        """Makes the report of everything since the last report. ``duration`` 0 tells that no step was run."""
        report = StepReport(
            tuple(self._outputs),
            tuple(self._slots),
            self._scheduler.gauges(),
            queued,
            duration,
            sum(sequence.prompt_length for sequence in batch.looked_up),
            sum(sequence.cached for sequence in batch.looked_up),
            request_ids(batch.preempted) if batch.preempted else (),
            tuple(self._verdicts),
        )
        self._outputs, self._slots, self._verdicts = [], [], []
        return report

    def add_output(self, output: RequestOutput, slot: int = -1) -> None:
        """Adds an output to the next report; ``slot`` -1: of a request that never ran."""
        self._outputs.append(output)
        self._slots.append(slot)

    def end(self, root: Sequence, reason: FinishReason, error: str | None = None) -> None:
        """Ends a request without a token, with all of its branches."""
        self.add_output(RequestOutput(root.request.request_id, (), reason, error), root.slot)
        self._scheduler.finish(root)

    def fork(self, parent: Sequence, count: int) -> list[Sequence]:
        """Makes ``count`` branches that continue a sequence of a request, from the next step on.

        While a request has branches its sequences keep their tokens (``Sequence.undelivered``) and no output
        tells of them: :meth:`adopt` says which sequence's tokens are the reply's. Raises ValueError for a
        sequence that has ended.
        """
        branches, tail = self._scheduler.fork(parent, count)
        if tail is not None:
            self._runner.copy((tail,))
        return branches

    def adopt(self, sequence: Sequence) -> None:
        """Lets a request go on as one of its sequences, whose tokens are emitted; all others are forgotten.

        Raises ValueError for a sequence of no running request.
        """
        self._settle(self._scheduler.adopt(sequence))

    def drop(self, branch: Sequence) -> None:
        """Forgets a branch; without any left the request's own sequence is adopted."""
        family = branch.family
        if family is not None and branch is not family.root:
            self._scheduler.finish(branch)
            if not family.branches:
                self._settle(family.root)

    def _open_branches(self, row: Sequence, drawn: Drawn) -> None:
        """Opens branches beside the drawn token if the policy asks for them, before the row takes it."""
        depth = rollout_depth(row.request, drawn, row.branch_spent, row.reply.room)
        if depth:
            firsts = first_tokens(row.request, drawn)
            branches = self.fork(row, len(firsts))
            self._rollouts.begin((row, *branches), depth)
            for branch, first in zip(branches, firsts, strict=True):
                self._take(branch, first)

    def _take(self, row: Sequence, token: Token, clarifying: tuple[int, ...] = ()) -> None:
        row.append(token)
        surprisal = None if token.only_choice else token.surprisal
        reason = row.reply.take(token.token_id, self._tokenizer, clarifying, surprisal)
        family = row.family
        if family is not None and family.branches:
            row.undelivered.append(token)
            row.ended = reason
            if reason is not None:
                self._scheduler.suspend(row)
            return
        self._emit(row, (token,), reason)

    def _emit(self, root: Sequence, tokens: tuple[Token, ...], reason: FinishReason | None) -> None:
        """Emits tokens of a request's own sequence, and forgets the request where they end it."""
        prompt = () if root.prompt_figures is None else root.prompt_figures.tell()
        self._outputs.append(
            RequestOutput(
                root.request.request_id,
                tokens,
                reason,
                root.reply.error,
                root.cached,
                root.branch_spent,
                prompt,
            )
        )
        self._slots.append(root.slot)
        if reason is not None:
            self._scheduler.finish(root)

    def _fail(self, row: Sequence, error: str) -> None:
        """Ends the request of a row that is bad, or for which a step failed; of a branch only the branch."""
        self._runner.clear(self._scheduler.poisoned(row))
        if not row.branch:
            self.end(row, FinishReason.ERROR, error)
        elif row.reply.rollout_end:
            row.ended = FinishReason.ERROR  # the verdict passes it over
            self._scheduler.suspend(row)
        else:
            self.drop(row)

    def _settle(self, root: Sequence) -> None:
        """Emits the tokens that a request's own sequence kept, now that it is the only one."""
        if root.undelivered or root.ended is not None:
            tokens, root.undelivered = tuple(root.undelivered), []
            self._emit(root, tokens, root.ended)


def _first_steps(batch: Batch, now: float) -> tuple[tuple[str, float], ...]:
    """Lists the requests that got their first step, with the seconds that they had waited."""
    queued = []
    for chunk in batch.chunks:
        sequence = chunk.sequence
        if sequence.first_step is None and not sequence.branch:
            sequence.first_step = now
            queued.append((sequence.request.request_id, now - sequence.request.arrival))
    return tuple(queued)
