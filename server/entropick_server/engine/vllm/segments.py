"""The segments of requests on AsyncLLM, whose tokens are joined with the figures of the side channel."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from ..base import EngineDeadError, EngineError, QueueFullError
from ..reply import BAD_LOGITS, Drawn
from ..tokens import token_detail, token_of, token_without_figures
from ..types import PromptToken
from .chain import Segment, SegmentToken
from .prompt_figures import prompt_tokens
from .wire import FIELD, RowSpec
from .worker_client import WorkerClient

_LOST = "the log probabilities of this answer were lost on their way from vLLM's worker"
_ENDS = frozenset(("stop", "length"))
"""vLLM's names of the two ends that a segment is meant to have"""
DEAD = "vLLM's engine died; the server's log says why"
STOPPED = "the engine was stopped"


class VllmSegments:
    """A :class:`~.chain.SegmentRunner` on the AsyncLLM of a worker client."""

    def __init__(self, client: WorkerClient, layers: Sequence[int]) -> None:
        self._client = client
        self._layers = tuple(layers)
        self._numbers = itertools.count()

    async def run(self, segment: Segment) -> AsyncGenerator[list[SegmentToken], None]:
        """Yields the tokens of a segment as they come, and aborts the segment when it is closed.

        Raises EngineError; EngineDeadError when vLLM dies and when the engine is closed.
        """
        from vllm import SamplingParams
        from vllm.exceptions import QueueOverflowError, VLLMError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDead
        from vllm.v1.engine.exceptions import EngineGenerateError

        client, inbox = self._client, self._client.inbox
        if client.llm is None:
            raise EngineDeadError(STOPPED)
        # a request id may come again while vLLM still aborts the request that had it before
        key = f"{segment.spec.key}#{next(self._numbers)}"
        spec = replace(segment.spec, key=key)
        params = SamplingParams(
            # the processor leaves one token in each row, which any way of drawing picks
            temperature=0.0,
            max_tokens=segment.limit,
            stop_token_ids=list(segment.stops),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            # ranked by vLLM itself, from the logits before any processor: no token is drawn there
            prompt_logprobs=segment.prompt_logprobs,
            extra_args={FIELD: spec.as_dict()},
        )
        fed = {"prompt_token_ids": list(segment.prompt)}
        inbox.expect(key)
        try:
            async with aclosing(client.llm.generate(fed, params, key)) as outputs:
                position, preempted = spec.start, 0
                prompt: tuple[PromptToken, ...] = ()
                async for output in outputs:
                    done, metrics = output.outputs[0], output.metrics
                    cached = output.num_cached_tokens or 0
                    if output.prompt_logprobs:
                        prompt += prompt_tokens(
                            segment.prompt, len(prompt), output.prompt_logprobs, segment.prompt_logprobs or 0
                        )
                    tokens = [
                        (await self._drawn(spec, position + i, token_id))._replace(cached=cached)
                        for i, token_id in enumerate(done.token_ids)
                    ]
                    if tokens:
                        first = position == spec.start
                        position += len(tokens)
                        if metrics is not None and (first or metrics.num_preemptions > preempted):
                            again, preempted = metrics.num_preemptions - preempted, metrics.num_preemptions
                            waited = max(0.0, metrics.scheduled_ts - metrics.queued_ts)
                            tokens[0] = tokens[0]._replace(waited=waited, preempted=again)
                        if first:
                            tokens[0] = tokens[0]._replace(prompt=prompt)
                        yield tokens
                    if output.finished and not (tokens and done.finish_reason in _ENDS):
                        raise EngineError(f"vLLM gave this request up ({done.finish_reason})")
        except VllmDead as error:
            raise EngineDeadError(STOPPED if client.llm is None else DEAD) from error
        except EngineGenerateError as error:
            raise EngineError(f"vLLM failed on this request: {error.__cause__}") from error
        except QueueOverflowError as error:
            raise QueueFullError(str(error)) from error
        except VLLMError as error:
            raise EngineError(f"vLLM refuses this request: {error}") from error
        finally:
            inbox.forget(key)

    async def _drawn(self, spec: RowSpec, position: int, token_id: int) -> SegmentToken:
        """Joins a token of vLLM with its figures, which may be lost."""
        figures = await self._client.inbox.row(spec.key or "", position)
        if self._client.llm is None:
            raise EngineDeadError(STOPPED)
        # figures of another token belong to a step whose token vLLM threw away
        if figures is None or figures.row.token != token_id:
            error = None if spec.sampling.logprobs is None else _LOST
            return SegmentToken(Drawn(token_without_figures(token_id), error=error))
        mark, row = figures
        token = token_of(
            row,
            forced=mark.forced,
            replayed=bool(spec.replayed) or position < spec.start + spec.named,
            tops=mark.tops,
            detail=mark.detail and token_detail(mark.detail, self._layers, row.candidates),
            probable=mark.probable,
            only_choice=mark.only_choice,
        )
        # the worker emits the rest of a clarifying text by itself: its first token is all that is known here
        drawn = Drawn(
            token, (token_id,) if row.inserted else (), row.firsts, BAD_LOGITS if row.flags else None
        )
        return SegmentToken(drawn, heads=mark.heads)
