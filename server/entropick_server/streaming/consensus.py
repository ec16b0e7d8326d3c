"""The answer to one HTTP request whose prompts are each answered by a vote of several replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..admission import AdmittedPrompt
from ..consensus.config import ConsensusConfig
from ..consensus.rules import Verdict, judge
from ..consensus.run import Report, draw_votes
from ..consensus.weights import Vote, vote
from ..engine.base import EngineDeadError
from ..engine.types import FinishReason, Request
from ..error_estimate import Agreement
from ..protocol.errors import ApiError
from ..protocol.responses import (
    ChatChunkChoice,
    CompletionChoice,
    ConsensusSummary,
    ConsensusTelemetry,
    ReplyRow,
)
from ..protocol.usage import CompletionTokensDetails, PromptTokensDetails, Usage
from ..state import ServerState
from .answer import (
    DONE,
    StreamUsage,
    Write,
    chunk_event,
    envelope,
    event,
    last_event,
    row_size,
    run_choice,
    whole_choices,
)
from .formats import Format
from .message import Delta
from .pieces import JsonWriter
from .run import Origin, ReplyToken, Run, figures_of

Result = TypeVar("Result")


class VotedPrompt:
    """A prompt with the replies that are drawn for it.

    Reply i draws as choice i of the prompt would, but for reply 0 where a greedy reply is asked for.
    """

    def __init__(
        self, index: int, request: Request, config: ConsensusConfig, origin: Origin, place: AdmittedPrompt
    ) -> None:
        """Prepares prompt number ``index`` of the answer; ``request`` asks for one choice of it."""
        self.index = index
        self.runs: dict[int, Run] = {}
        """by number of the reply"""
        self.winner: Run | None = None
        """set at the verdict"""
        self.steps: dict[int, list[tuple[Delta, list[ReplyToken]]]] = {}
        """number -> what the engine's steps let out, with the tokens that each completes"""
        self._request = request
        self._config = config
        self._origin = origin
        self._place = place
        self._foreseen = place.waiting
        """replies that are admitted with the prompt"""
        self._extract = config.extractor

    async def run(self, server: ServerState, report: Report | None) -> Run:
        """Draws replies until the vote is decided. Returns the reply that won."""
        rule, k, similar = self._config.stop, self._config.k, self._config.similar
        votes = await draw_votes(rule, k, partial(self._draw, server), report)
        size = sum(len(vote.answer or "") for vote in votes) * len(votes) if similar else 0
        verdict = await _beside(server, size, partial(judge, rule, votes, k, similar=similar))
        self._place.leave()
        self.winner = winner = self.runs[verdict.winner]
        winner.consensus = told = self._telemetry(verdict, votes)
        if not similar:
            told.error_probability = winner.error_probability(Agreement.of(votes, verdict.winner))
        server.metrics.on_consensus(verdict.reason, len(votes), self.lost)
        return winner

    @property
    def lost(self) -> int:
        """Counts the tokens of the replies that do not come back."""
        return sum(len(run.tokens) for run in self.runs.values() if run is not self.winner)

    async def _draw(self, server: ServerState, number: int) -> Vote:
        if number >= self._foreseen:
            self._place.add_waiting()
        index = self.index * self._config.k + number
        extract = None if self._config.similar else self._extract
        request = self._reply(number)
        run = self.runs[number] = Run(index, request, self._origin, server, self._place, extract)
        steps = self.steps[number] = []

        async def deliver(run: Run, text: str, first: bool) -> None:
            steps.extend(run.pieces(text))

        await run_choice(server, run, deliver)
        ended = run.finish_reason is FinishReason.STOP
        text, tokens = run.text, [figures_of(token) for token in run.tokens]
        cast = partial(vote, text, tokens, ended, run.extractor(self._extract), self._config.weight)
        return await _beside(server, len(text), cast)

    def _reply(self, number: int) -> Request:
        """Returns the engine's request of a reply."""
        request, answer_id = self._request, self._origin.answer_id
        begin = self.index * self._config.k
        sampling, policy = request.sampling, replace(request.policy, branch=None)
        if number == 0 and self._config.first == "greedy":
            sampling = replace(sampling, temperature=0.0)
            left = {name: value for name, value in policy.overrides.items() if name != "temperature"}
            policy = replace(policy, overrides=left)
        return replace(
            request,
            request_id=f"{answer_id}-{begin + number}",
            sampling=sampling,
            policy=policy,
            # a reply of a later wave did not wait from the beginning on
            arrival=request.arrival if number < self._foreseen else time.monotonic(),
            choice=number,
            group=f"{answer_id}-{begin}",
        )

    def _telemetry(self, verdict: Verdict, votes: Sequence[Vote]) -> ConsensusTelemetry:
        told = ConsensusTelemetry(
            summary=ConsensusSummary(
                replies=len(votes),
                answered=sum(vote.answer is not None for vote in votes),
                answer=verdict.answer,
                share=verdict.share,
                rule=self._config.stop.rule,
                reason=verdict.reason,
            )
        )
        if self._request.policy.telemetry == "full":
            told.replies = [
                ReplyRow(
                    choice=number,
                    text=run.text,
                    token_ids=[reply.token.token_id for reply in run.tokens],
                    finish_reason=str(run.finish_reason),
                    answer=votes[number].answer,
                    weight=votes[number].weight,
                    chosen=number == verdict.winner,
                )
                for number, run in sorted(self.runs.items())
            ]
        return told


async def _beside(server: ServerState, size: int, work: Callable[[], Result]) -> Result:
    """Runs ``work`` beside the event loop unless it is small; a stream can tell the error of a shutdown."""
    try:
        return await server.offload.run(size, work)
    except ApiError as error:
        raise EngineDeadError(error.message) from error


class ConsensusAnswer:
    """An answer with one choice for each prompt, which won a vote."""

    def __init__(
        self, server: ServerState, origin: Origin, kind: Format, prompts: Sequence[VotedPrompt]
    ) -> None:
        self._server = server
        self._origin = origin
        self._format = kind
        self._prompts = prompts

    async def collect(self) -> list[bytes]:
        """Runs the votes to their verdicts. Returns the JSON of the whole answer in pieces."""
        runs = await self._run_all(None)
        request = runs[0].request
        size = sum(len(run.tokens) for run in runs) * row_size(request)
        if request.policy.telemetry == "full":
            size += sum(prompt.lost for prompt in self._prompts)
        return await self._server.offload.run(size, partial(self._whole, runs))

    async def stream(self, write: Write, usage: StreamUsage) -> None:
        """Runs the votes and writes server-sent events up to [DONE]: comments, then the winners' texts."""
        await self._run_all(write, usage)
        if usage is not StreamUsage.NONE:
            last = envelope(self._origin, self._format.chunk_object)
            last.usage = self._usage()
            await write(event(last.model_dump_json(exclude_unset=True)))
        await write(DONE)

    async def _run_all(self, write: Write | None, usage: StreamUsage = StreamUsage.NONE) -> list[Run]:
        """Runs the prompts side by side. The first failure ends all of them."""
        tasks = [asyncio.create_task(self._run(prompt, write, usage)) for prompt in self._prompts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run(self, prompt: VotedPrompt, write: Write | None, usage: StreamUsage) -> Run:
        if write is None:
            return await prompt.run(self._server, None)

        async def report(ended: int, begun: int) -> None:
            # ignored by every client, and keeps the connection open
            await write(f": choice {prompt.index}: {ended} of {begun} replies\n\n".encode())

        run = await prompt.run(self._server, report)
        chunks: list[ChatChunkChoice | CompletionChoice] = []
        if (opening := self._format.opening(run)) is not None:
            chunks.append(opening)
        for delta, tokens in prompt.steps[run.request.choice]:
            chunks.append(self._format.chunk(run, delta, tokens))
        sent = self._usage() if usage is StreamUsage.ALWAYS else usage.of_a_chunk
        for number, choice in enumerate(chunks):
            choice.index = prompt.index
            ids = self._format.told_ids(run) if not number else None
            await write(chunk_event(self._origin, self._format, choice, sent, ids))
            await asyncio.sleep(0)  # others get their turns: nothing else in here waits
        index = prompt.index
        await write(await last_event(self._server, self._origin, self._format, run, sent, index))
        return run

    def _whole(self, runs: Sequence[Run]) -> list[bytes]:
        whole = envelope(self._origin, self._format.whole_object)
        writer = JsonWriter()
        whole.choices = writer.later(whole_choices(self._format, runs, writer))
        self._format.tell_prompt(whole, runs[0], writer)
        whole.usage = self._usage()
        pieces = list(writer.pieces(whole))
        for prompt in self._prompts:
            for run in prompt.runs.values():
                run.lighten(whole=True)
        return pieces

    def _usage(self) -> Usage:
        """Returns the counts over all prompts; the tokens of replies that lost are counted apart."""
        firsts = [prompt.runs[0] for prompt in self._prompts]
        asked = sum(len(run.request.prompt_token_ids) for run in firsts)
        completion = sum(len(prompt.winner.tokens) for prompt in self._prompts if prompt.winner is not None)
        lost = sum(prompt.lost for prompt in self._prompts)
        return Usage(
            prompt_tokens=asked,
            completion_tokens=completion,
            total_tokens=asked + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(run.cached_tokens for run in firsts)),
            completion_tokens_details=CompletionTokensDetails(branch_tokens=0, consensus_tokens=lost),
        )
