"""A request as a chain of segments: vLLM requests that follow each other, several where branches open.

vLLM cannot fork. Where a strategy opens branches the running segment is aborted, every branch becomes a vLLM
request on the prefix cache, the tokens of the best branch are emitted, and a new segment goes on behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from entropick_sampler.genuineness.quadrants import Cuts
from entropick_sampler.reply_adjustments import adjusts

from ..base import Tokenizer
from ..reply import Drawn, Reply, philox_stream
from ..rollout import RolledOut, branch_ends, first_tokens, judge, rollout_depth
from ..tokens import HeadEntropies
from ..types import BranchVerdict, FinishReason, PromptToken, Request, RequestOutput, Token
from .known_surprisals import KnownSurprisals
from .watch import ReplyWatch
from .wire import GrammarSpec, RowSpec

if TYPE_CHECKING:
    from entropick_sampler.genuineness.reply import ReplyWindows


@dataclass(frozen=True, slots=True)
class Segment:
    """A vLLM request: the row ``spec`` behind ``prompt``, for at most ``limit`` tokens.

    ``stops``: token ids that end it earlier. ``prompt_logprobs``: as in SamplingParams, of the segment that
    a request begins with.
    """

    prompt: tuple[int, ...]
    spec: RowSpec
    limit: int
    stops: tuple[int, ...]
    prompt_logprobs: int | None = None


class SegmentToken(NamedTuple):
    """A token of a segment, with the figures that vLLM has of the segment.

    ``cached``: tokens of the prompt whose keys were in the prefix cache. ``waited``: seconds that the segment
    spent in vLLM's queue, None where vLLM does not say. ``preempted``: how often vLLM has taken its KV cache
    blocks away since the last token.
    """

    drawn: Drawn
    cached: int = 0
    waited: float | None = None
    preempted: int = 0
    heads: HeadEntropies | None = None
    """what goes into the windows of genuineness; None where it was lost or is not wanted"""
    prompt: tuple[PromptToken, ...] = ()
    """of a segment's first token, where log probabilities of the prompt are wanted"""


class SegmentRunner(Protocol):
    """A runner of segments, as a chain sees it."""

    def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        """Yields the tokens of a segment as they come, and aborts the segment when it is closed.

        Raises EngineError.
        """
        ...


@dataclass(slots=True)
class _Branch:
    """A branch on its way to the verdict. ``reason``: why it ended, None where only its rollout is over."""

    number: int
    tokens: list[Token]
    reply: Reply
    reason: FinishReason | None = None
    error: str | None = None


class Chain:
    """A request on its way through vLLM.

    ``verdicts`` (of rollouts that came to their end) and ``preempted`` (how often vLLM took blocks away) wait
    for the reporter, which empties them. ``waited``: seconds before the first segment ran.
    """

    def __init__(
        self,
        request: Request,
        max_model_len: int,
        segments: SegmentRunner,
        tokenizer: Tokenizer,
        cuts: Cuts | None = None,
    ) -> None:
        """Begins a request. ``cuts``: the profile's cut points of genuineness."""
        self._request = request
        self._segments = segments
        self._tokenizer = tokenizer
        self._reply = Reply.begin(request, max_model_len, draws=False)
        self._ids: list[int] = []
        """the reply's tokens"""
        self._spent = 0 if request.resumed is None else request.resumed.spent
        self._cached = 0
        self._count = 0
        self._prompt: tuple[PromptToken, ...] = ()
        """figures of the prompt that no output has told"""
        self._told_prompt = False
        self._known = KnownSurprisals.of(request)
        self._cuts = cuts
        self.verdicts: list[BranchVerdict] = []
        self.preempted = 0
        self.waited: float | None = None

    @property
    def windows(self) -> ReplyWindows | None:
        """Returns the windows of the reply so far; None before its first token and where nothing watches."""
        return self._reply.windows

    async def run(self) -> AsyncGenerator[RequestOutput, None]:
        """Yields the request's outputs up to the output with a finish reason."""
        watch = ReplyWatch(self._request, self._cuts)
        while True:
            opening: tuple[Drawn, int] | None = None
            async with aclosing(self._segments.run(self._next_segment())) as stream:
                async for batch in stream:
                    taken: list[Token] = []
                    for token in batch:
                        self._note(token)
                        drawn = watch.push(self._reply, token.drawn, token.heads)
                        if drawn.error is not None:
                            yield self._output(taken, FinishReason.ERROR, drawn.error)
                            return
                        if not self._reply.room:
                            # the prompt alone is wanted; vLLM draws a token at least
                            yield self._output((), FinishReason.LENGTH)
                            return
                        if depth := rollout_depth(self._request, drawn, self._spent, self._reply.room):
                            opening = drawn, depth
                            break
                        taken.append(drawn.token)
                        self._append(drawn.token)
                        reason = self._reply.take(drawn.token.token_id, self._tokenizer, drawn.clarifying)
                        if reason is not None:
                            yield self._output(taken, reason, self._reply.error)
                            return
                    if taken:
                        yield self._output(taken)
                    if opening is not None:
                        break
            if opening is None:
                # the stream ended, the reply did not: the segment was aborted from outside
                yield self._output((), FinishReason.CANCELLED)
                return
            output = await self._roll_out(*opening)
            yield output
            if output.finish_reason is not None:
                return

    def _append(self, token: Token) -> None:
        if self._known is not None:
            self._known.append(token)
        self._ids.append(token.token_id)

    def _note(self, token: SegmentToken) -> None:
        if self._known is not None:
            self._known.tell_prompt(token.prompt)
        if self._request.sampling.prompt_logprobs is not None:
            self._prompt = self._prompt or token.prompt
        self._cached = self._cached or token.cached
        self.preempted += token.preempted
        if self.waited is None:
            self.waited = token.waited

    def _next_segment(self) -> Segment:
        request, reply = self._request, self._reply
        spec = self._spec(reply, 0, self._ids)
        wanted = request.sampling.prompt_logprobs
        if self._known is not None:
            wanted = wanted or 0
        if self._told_prompt:
            wanted = None
        prompt = (*request.prompt_token_ids, *self._ids)
        return Segment(prompt, spec, max(1, reply.room), reply.stops, wanted)

    def _branch_segment(self, branch: _Branch, limit: int) -> Segment:
        reply, ids = branch.reply, [*self._ids, *(token.token_id for token in branch.tokens)]
        spec = self._spec(reply, branch.number, ids, branch.tokens)
        spec = replace(spec, rollout_end=reply.length + limit, policy=replace(spec.policy, branch=None))
        return Segment((*self._request.prompt_token_ids, *ids), spec, limit, reply.stops)

    def _spec(self, reply: Reply, branch: int, ids: Sequence[int], beside: Sequence[Token] = ()) -> RowSpec:
        """Describes the row that continues a reply behind ``ids``; each gets a key of its own.

        ``beside``: the last of them, which belong to a branch alone.
        """
        self._count += 1
        request = self._request
        seen: tuple[int, ...] = ()
        output: tuple[int, ...] = ()
        if adjusts(request.sampling):
            prompt = len(request.prompt_token_ids) - request.kept
            output = (*request.prompt_token_ids[prompt:], *ids)
            if request.sampling.repetition_penalty != 1.0:
                seen = tuple(dict.fromkeys(request.prompt_token_ids[:prompt]))
        return RowSpec(
            request.sampling,
            request.policy,
            key=f"{request.request_id}/{self._count}",
            start=reply.length,
            stream=philox_stream(request.choice, branch),
            replayed=tuple(reply.pending) if reply.replays else (),
            pending=() if reply.replays else tuple(reply.pending),
            named=reply.named,
            tokens=reply.tokens,
            surprisal=reply.surprisal,
            clarify_used=reply.clarify_used,
            since_clarify=reply.since_clarify,
            unfinished=reply.unfinished,
            newest=reply.history.newest,
            seen=seen,
            output=output,
            grammar=self._grammar(ids),
            known=None if self._known is None else self._known.behind(beside),
            prompt_tokens=len(request.prompt_token_ids) + len(ids),
        )

    def _grammar(self, written: Sequence[int]) -> GrammarSpec | None:
        """Describes the grammar of a row for its worker; ``written``: tokens behind the prompt."""
        asked = self._request.grammar
        if asked is None:
            return None
        kept = () if self._request.resumed is None else self._request.resumed.tokens
        ids = (*(token.token_id for token in kept), *written)
        return GrammarSpec(asked.source, asked.ends, ids)

    async def _roll_out(self, opening: Drawn, depth: int) -> RequestOutput:
        """Runs the branches that open at a token, and takes over the best of them."""
        firsts = [opening.token, *first_tokens(self._request, opening)]
        tasks = [asyncio.create_task(self._run_branch(n, t, depth)) for n, t in enumerate(firsts)]
        try:
            branches = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        verdict = judge(self._request, [RolledOut(b.number, b.tokens, b.error is not None) for b in branches])
        if verdict is None:
            return self._output((), FinishReason.ERROR, branches[0].error)
        winner = branches[verdict.winner]
        self._spent += verdict.lost
        winner.reply.end_rollout()
        self._reply = winner.reply
        for token in verdict.tokens:
            self._append(token)
        self.verdicts.append(BranchVerdict(self._request.request_id, winner.number, verdict.lost))
        return self._output(verdict.tokens, winner.reason)

    async def _run_branch(self, number: int, first: Token, depth: int) -> _Branch:
        branch = _Branch(number, [first], self._reply.copy())
        branch.reply.begin_rollout(depth, branch_ends(self._request))
        branch.reason = branch.reply.take(first.token_id, self._tokenizer)
        if branch.reason is not None or branch.reply.rolled_out:
            return branch
        watch = ReplyWatch(self._request, self._cuts)
        async with aclosing(self._segments.run(self._branch_segment(branch, depth - 1))) as stream:
            async for batch in stream:
                for token in batch:
                    self.preempted += token.preempted
                    drawn = watch.push(branch.reply, token.drawn, token.heads)
                    if drawn.error is not None:
                        branch.error = drawn.error
                        return branch
                    branch.tokens.append(drawn.token)
                    branch.reason = branch.reply.take(drawn.token.token_id, self._tokenizer)
                    branch.error = branch.reply.error
                    if branch.reply.rolled_out or branch.reason is not None:
                        return branch
        return branch

    def _output(
        self, tokens: Sequence[Token], reason: FinishReason | None = None, error: str | None = None
    ) -> RequestOutput:
        prompt, self._prompt = self._prompt, ()
        self._told_prompt = True
        return RequestOutput(
            self._request.request_id, tuple(tokens), reason, error, self._cached, self._spent, prompt
        )
