"""One request as a chain of vLLM requests: one, or several where branches open.

vLLM cannot fork. Where a strategy opens branches the running piece is aborted, every branch is a request on
the prefix cache, the best one's tokens are emitted and a new piece goes on behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from entropick_sampler.branch import Trajectory, opens, scores, select
from entropick_sampler.params import BranchConfig
from entropick_sampler.score import host_confidence
from entropick_sampler.signals import SIGNAL_NAMES

from ..base import Tokenizer
from ..reply import philox_stream, unfinished_character
from ..tokens import drawn_beside
from ..types import BranchRecord, BranchVerdict, FinishReason, Request, RequestOutput, Token
from .wire import RowSpec

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")


@dataclass(frozen=True, slots=True)
class Piece:
    """One vLLM request: ``spec`` behind ``prompt``, up to ``limit`` tokens, or one of ``stops``."""

    prompt: tuple[int, ...]
    spec: RowSpec
    limit: int
    stops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A token of a piece. ``firsts``: what further branches would begin with: id, log probability, score.

    ``inserted``: a clarifying text begins with it. ``error``: the row's logits were no numbers. ``cached``:
    tokens of the prompt that were in the cache. ``reason``: why the piece ended, with its last token.
    ``waited``: seconds in vLLM's queue; ``preempted``: how often it gave its pages up since the last step.
    """

    token: Token
    firsts: tuple[tuple[int, float, float], ...] = ()
    inserted: bool = False
    error: str | None = None
    cached: int = 0
    reason: FinishReason | None = None
    waited: float | None = None
    preempted: int = 0


class Pieces(Protocol):
    """Runs pieces; closing the generator aborts the piece."""

    def run(self, piece: Piece) -> AsyncGenerator[list[Step], None]:
        """The tokens of a piece, as they come. Raises EngineError."""
        ...


@dataclass(slots=True)
class _Reply:
    """What was said so far, and what the policy remembers of it."""

    tokens: list[int]
    clarify_used: int = 0
    since_clarify: int | None = None
    unfinished: bytes = b""

    def take(self, token: Token, tokenizer: Tokenizer, *, inserted: bool = False) -> None:
        self.tokens.append(token.token_id)
        if inserted:
            self.clarify_used += 1
            self.since_clarify = 0
        elif self.since_clarify is not None:
            self.since_clarify += 1
        self.unfinished = unfinished_character(
            self.unfinished + (tokenizer.token_bytes(token.token_id) or b"")
        )

    def copy(self) -> _Reply:
        return replace(self, tokens=self.tokens.copy())


class Chain:
    """A request on its way.

    ``verdicts`` are those of rollouts that came to their end, ``preempted`` counts: both to be reported.
    ``waited``: seconds before the first piece ran.
    """

    def __init__(self, request: Request, limit: int, pieces: Pieces, tokenizer: Tokenizer) -> None:
        """``limit``: tokens of the reply, at most."""
        self._request = request
        self._limit = limit
        self._pieces = pieces
        self._tokenizer = tokenizer
        self._reply = _Reply([])
        self._spent = 0
        self._cached = 0
        self._count = 0
        self.verdicts: list[BranchVerdict] = []
        self.preempted = 0
        self.waited: float | None = None

    async def run(self) -> AsyncGenerator[RequestOutput, None]:
        """The request's outputs up to the one with a reason."""
        while True:
            opened: tuple[Step, int] | None = None
            async with aclosing(self._pieces.run(self._piece())) as stream:
                async for steps in stream:
                    taken: list[Token] = []
                    for step in steps:
                        self._note(step)
                        if step.error is not None:
                            yield self._output(tuple(taken), FinishReason.ERROR, step.error)
                            return
                        if depth := self._depth(step):
                            opened = step, depth
                            break
                        self._reply.take(step.token, self._tokenizer, inserted=step.inserted)
                        taken.append(step.token)
                        if step.reason is not None:
                            yield self._output(tuple(taken), step.reason)
                            return
                    if taken:
                        yield self._output(tuple(taken))
                    if opened is not None:
                        break
            if opened is None:
                # the stream ended without a reason: it was aborted from outside
                yield self._output((), FinishReason.CANCELLED)
                return
            output = await self._roll_out(*opened)
            yield output
            if output.finish_reason is not None:
                return

    def _note(self, step: Step) -> None:
        self._cached = self._cached or step.cached
        self.preempted += step.preempted
        if self.waited is None:
            self.waited = step.waited

    def _depth(self, step: Step) -> int:
        """Tokens that each branch may have if branches open at this token, 0 where none open."""
        config = self._request.policy.branch
        if config is None or not step.firsts or step.token.forced:
            return 0
        room = self._limit - len(self._reply.tokens)
        maximum = self._request.sampling.max_tokens
        return opens(config, step.token.strategy, maximum, self._spent, room)

    def _piece(self) -> Piece:
        request, reply = self._request, self._reply
        done = len(reply.tokens)
        forced = request.forced_token_ids
        return self._behind(reply, self._limit - done, 0, replay=forced[done:])

    def _behind(self, reply: _Reply, limit: int, branch: int, replay: tuple[int, ...] = ()) -> Piece:
        self._count += 1
        request = self._request
        spec = RowSpec(
            request.sampling,
            request.policy if not branch else replace(request.policy, branch=None),
            key=f"{request.request_id}/{self._count}",
            start=len(reply.tokens),
            branch=philox_stream(request.choice, branch),
            forced=replay,
            replay=bool(replay),
            clarify_used=reply.clarify_used,
            since_clarify=reply.since_clarify,
            unfinished=reply.unfinished,
        )
        stops = () if replay else request.sampling.stop_token_ids
        return Piece((*request.prompt_token_ids, *reply.tokens), spec, limit, stops)

    async def _roll_out(self, opening: Step, depth: int) -> RequestOutput:
        token = opening.token
        config = self._request.policy.branch or BranchConfig()
        firsts = [token, *(drawn_beside(token, *first) for first in opening.firsts[: config.width - 1])]
        tasks = [asyncio.create_task(self._branch(n, t, depth)) for n, t in enumerate(firsts)]
        try:
            branches = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        sound = [branch for branch in branches if branch.error is None]
        if not sound:
            return self._output((), FinishReason.ERROR, branches[0].error)
        scored = scores(config.scorer, [_trajectory(branch.tokens) for branch in sound])
        winner = sound[select(scored)]
        lost = sum(len(branch.tokens) for branch in branches if branch is not winner)
        self._spent += lost
        self._reply = winner.reply
        self.verdicts.append(BranchVerdict(self._request.request_id, winner.number, lost))
        kept = winner.tokens
        if self._request.policy.telemetry == "full":
            records = tuple(
                BranchRecord(tuple(t.token_id for t in branch.tokens), score, branch is winner)
                for branch, score in zip(sound, scored, strict=True)
            )
            kept = [replace(kept[0], branches=records), *kept[1:]]
        return self._output(tuple(kept), winner.reason)

    async def _branch(self, number: int, first: Token, depth: int) -> _Branch:
        reply = self._reply.copy()
        reply.take(first, self._tokenizer)
        branch = _Branch(number, [first], reply)
        if first.token_id in self._request.sampling.stop_token_ids:
            branch.reason = FinishReason.STOP
        elif depth > 1:
            await self._continue(branch, depth - 1)
        if branch.reason is None and len(reply.tokens) >= self._limit:
            branch.reason = FinishReason.LENGTH
        return branch

    async def _continue(self, branch: _Branch, limit: int) -> None:
        piece = self._behind(branch.reply, limit, branch.number)
        piece = replace(piece, spec=replace(piece.spec, rollout=True))
        async with aclosing(self._pieces.run(piece)) as stream:
            async for steps in stream:
                for step in steps:
                    self.preempted += step.preempted
                    if step.error is not None:
                        branch.error = step.error
                        return
                    branch.reply.take(step.token, self._tokenizer)
                    branch.tokens.append(step.token)
                    if step.reason is FinishReason.STOP:
                        branch.reason = step.reason

    def _output(
        self, tokens: tuple[Token, ...], reason: FinishReason | None = None, error: str | None = None
    ) -> RequestOutput:
        return RequestOutput(self._request.request_id, tokens, reason, error, self._cached, self._spent)


@dataclass(slots=True)
class _Branch:
    number: int
    tokens: list[Token]
    reply: _Reply
    reason: FinishReason | None = None
    error: str | None = None


def _trajectory(tokens: Sequence[Token]) -> Trajectory:
    return Trajectory(
        [t.token_id for t in tokens],
        [t.logprob for t in tokens],
        [t.signals[_ENTROPY] or 0.0 for t in tokens],
        [host_confidence(t.signals) for t in tokens],
    )
